"""A small bundle that takes a second to make: a real network, saved as the real ones are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.ood import OodScorer
from model.predict import import_tensorflow

CHANNELS = 4
SCORER = OodScorer(
    mean=np.zeros(CHANNELS, np.float32), whitening=np.eye(CHANNELS, dtype=np.float32), unit=2.0
)


def manifest_document(weights: bytes, ood_sha256: str) -> dict[str, Any]:
    point = {"threshold": 0.0, "sensitivity": 0.98, "specificity": 0.97}
    return {
        "format": 3,
        "name": "tiny",
        "version": "1.2.3",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "input_shape": [32, 32, 1],
        "preprocess": {"version": 1, "parameters": {"size": 32, "clip": 2.0, "order": "none"}},
        "calibration": {"temperature": 1.5},
        "training": {
            "data": "none",
            "data_digest": "0" * 64,
            "prevalence": 0.75,
            "recipe": "by hand",
            "split": "none",
        },
        "operating_points": {
            "rule_out": {**point, "threshold": -1.0},
            "balanced": point,
            "rule_in": {**point, "threshold": 2.0},
        },
        "intended_use": {"min_age_years": 1, "max_age_years": 5.0, "text": "tests"},
        "ood": {
            "sha256": ood_sha256,
            "method": "tests",
            "layer": "spread",
            "grid": 1,
            "limit": 1.0,
            "far_limit": 1.5,
            "auroc": 0.99,
            "false_refusals": 0.0,
            "negatives": "none",
        },
        "metrics": {"auc": 0.9},
        "license": "Apache-2.0",
    }


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A saved network from grey 32x32 to one logit."""
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(3)
    pixels = keras.Input((32, 32, 1))
    scaled = keras.layers.Rescaling(1 / 128, offset=-1)(pixels)
    spread = keras.layers.Conv2D(CHANNELS, 3, activation="relu", name="spread")(scaled)
    logit = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(spread))
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    keras.Model(pixels, logit).save(path)
    return path.read_bytes()


@pytest.fixture
def manifest(tiny_weights: bytes, tmp_path: Path) -> dict[str, Any]:
    """A valid manifest of the tiny network, to be spoiled."""
    return manifest_document(tiny_weights, SCORER.save(tmp_path / "ood.npz"))


@pytest.fixture
def bundle_folder(tmp_path: Path, tiny_weights: bytes, manifest: dict[str, Any]) -> Path:
    """A valid bundle on disk."""
    folder = tmp_path / "tiny-1.2.3"
    folder.mkdir()
    SCORER.save(folder / "ood.npz")
    (folder / "model.keras").write_bytes(tiny_weights)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
