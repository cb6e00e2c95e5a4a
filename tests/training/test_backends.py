"""The training loop under Keras' other backends; skipped where they are not installed.

Neither is a dependency of the project: `pip install jax`, or `pip install torch`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from training.run import Run, read_log

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_fits_what_tensorflow_reads(
    backend: str, few_pictures: Path, tmp_path: Path
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    run = Run(tmp_path / "run")
    command = ["fit", "scratch-cnn", "--data", few_pictures, "--run", run.folder, "--epochs", "2"]
    command += ["--weights", "none", "--folds", "2", "--threads", "1", "--cache", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "training", *map(str, command)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    from training.backend import start

    assert start() == "tensorflow"
    from training.fit import load_checkpoint, outputs_of

    dataset, split = run.data(tmp_path)
    logits = outputs_of(load_checkpoint(run.final), dataset.pixels[split.validation])[:, 0]
    losses = np.logaddexp(0, logits) - logits * dataset.labels[split.validation]
    rows = read_log(run.log)
    assert len(rows) == 2
    assert rows[-1]["validation_loss"] == pytest.approx(float(losses.mean()), rel=1e-3)
