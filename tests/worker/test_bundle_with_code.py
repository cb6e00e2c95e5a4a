"""A bundle that brings a program: every command that meets it says so, and none of it runs."""

import json
from pathlib import Path

import pytest

from dicom_io import preprocess
from tests.model.conftest import SCORER, manifest_document
from tests.support.lambda_network import weights_with_code
from tests.support.system import command


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """All of it is in order, but for its Lambda layer; `ran` beside it tells whether that ran."""
    folder = tmp_path / "tiny-1.2.3"
    folder.mkdir()
    size = int(preprocess.parameters()["size"])
    weights = weights_with_code(tmp_path / "ran", size)
    manifest = manifest_document(weights, SCORER.save(folder / "ood.npz"))
    manifest["input_shape"] = [size, size, 1]
    manifest["preprocess"] = {
        "version": preprocess.VERSION,
        "parameters": preprocess.parameters(),
    }
    (folder / "model.keras").write_bytes(weights)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_check_and_the_inference_worker_refuse_it_by_name(bundle: Path, tmp_path: Path) -> None:
    env = {"CXR_HOME_DIR": str(tmp_path / "home"), "CXR_MODEL_BUNDLE": str(bundle)}
    assert command("db", "upgrade", env=env).returncode == 0
    check = command("check", env=env)
    worker = command("work", "--role", "inference", env=env)
    assert (check.returncode, worker.returncode) == (1, 2)
    said = f"{bundle / 'model.keras'} brings Python code of its own (Lambda)"
    assert f"FAILED  model: {said}" in check.stderr
    assert said in worker.stderr
    assert "Traceback" not in worker.stderr
    assert not (tmp_path / "ran").exists()
