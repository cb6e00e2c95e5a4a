"""A worker process opens only what it can answer for."""

import json
import shutil
from pathlib import Path

import pytest

from model.bundle import MANIFEST, shipped_bundle_path
from model.errors import BundleError
from worker.services import open_bundle
from worker.settings import Settings


def test_bundle_of_another_finding_is_refused(tmp_path: Path) -> None:
    """Reports speak of pneumonia: a model of masses must not stand behind them."""
    folder = tmp_path / "masses"
    folder.mkdir()
    shutil.copy(shipped_bundle_path() / MANIFEST, folder)
    settings = Settings.from_env({"CXR_MODEL_BUNDLE": str(folder), "CXR_HOME_DIR": str(tmp_path)})
    assert open_bundle(settings).path == folder
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**document, "finding": "Mass"}))
    with pytest.raises(BundleError, match="finds Mass, but reports speak of Pneumonia"):
        open_bundle(settings)
