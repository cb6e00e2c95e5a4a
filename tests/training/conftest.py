"""A few synthetic pictures in the Kaggle layout, and a recipe that fits in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training import backend
from training.dataset import Dataset, load
from training.recipe import Recipe
from training.run import RunSettings


def write_pictures(split: Path, each: int, *, side: int = 64, seed: int = 0) -> None:
    """PNEUMONIA is bright below, NORMAL above; two pictures a patient."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        (split / name).mkdir(parents=True)
        for index in range(each):
            slope = np.linspace(-60, 60, side)[:, None] * (1 if label else -1)
            picture = rng.normal(120, 30, (side, side)) + slope
            patient = index // 2
            stem = (
                f"person{patient}_{('bacteria', 'virus')[patient % 2]}_{index}"
                if label
                else f"IM-{patient:04d}-{index % 2 + 1:04d}"
            )
            cv2.imwrite(str(split / name / f"{stem}.jpeg"), picture.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pictures in train/."""
    folder = tmp_path_factory.mktemp("chest_xray")
    write_pictures(folder / "train", 16)
    return folder


@pytest.fixture(scope="session")
def few_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures of 6 patients in train/: what a large network is tried on."""
    folder = tmp_path_factory.mktemp("few")
    write_pictures(folder / "train", 6)
    return folder


@pytest.fixture(scope="session")
def dataset(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(data_folder / "train", tmp_path_factory.mktemp("cache"))


def build_tiny(_weights: Any) -> Any:
    import keras

    pixels = keras.Input((224, 224, 1))
    x = keras.layers.AveragePooling2D(16)(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    return keras.Model(pixels, keras.layers.Dense(1, dtype="float32", name="logits")(x))


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    backend.start()
    return Recipe(
        name="tiny",
        build=build_tiny,
        epochs=4,
        batch_size=8,
        learning_rate=3e-3,
        warmup_epochs=0.5,
        weight_decay=1e-4,
        ood_layer="average_pooling2d",
    )


@pytest.fixture
def run_settings(data_folder: Path, dataset: Dataset) -> Callable[..., RunSettings]:
    def make(**changes: Any) -> RunSettings:
        values = {
            "recipe": "tiny",
            "data": str(data_folder),
            "data_digest": dataset.digest,
            "fold": 0,
            "folds": 4,
            "seed": 1,
            "epochs": 4,
            "weights": None,
        }
        return RunSettings(**{**values, **changes})

    return make
