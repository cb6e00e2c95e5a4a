"""What only reads manifests or parses commands must not pay for TensorFlow."""

import subprocess
import sys

import pytest


def test_tensorflow_comes_without_what_keras_draws_and_is_wrapped_with() -> None:
    code = (
        "import sys\n"
        "from model.predict import import_tensorflow\n"
        "import_tensorflow()\n"
        "loaded = {'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "import matplotlib, sklearn, keras\n"  # later they can be had
        "assert not loaded and keras.ops.ones(1) is not None, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
