"""What only reads manifests or parses commands must not pay for TensorFlow."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "model.bundle",
        "model.bands",
        "model.predict",
        "model.evaluation.files",
        "training.cli",
        "training.export",
    ],
)
def test_import_leaves_tensorflow_and_keras_out(module: str) -> None:
    code = f"import sys, {module}; print(*({{'tensorflow', 'keras', 'cv2'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"tensorflow", "keras"}
