"""Logits of every picture of a split, and of its twins, as a CSV file."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.augment import Picture, hide_corners, sharpen, soften
from training.dataset import Dataset
from training.split import patient

AS_IS = "logit"
# Twins show what a prediction leans on besides the lungs.
TWINS: Mapping[str, Callable[[Picture], Picture]] = {
    "corners_hidden": hide_corners,
    "softened": soften,
    "sharpened": sharpen,
}

Logits = NDArray[np.float64]
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One row a picture: names (n,), labels int64 (n,), logits of it and its twins (n,) each."""

    names: Sequence[str]
    labels: NDArray[np.int64]
    logits: Logits
    twins: Mapping[str, Logits]

    @property
    def patients(self) -> list[str]:
        return [patient(name) for name in self.names]


def predict_twins(
    predict: Predict, dataset: Dataset, indices: NDArray[np.int64], batch_size: int = 32
) -> Predictions:
    """Predict the pictures at these indices, as they are and as each of their twins.

    predict: from uint8 (n, size, size) to logits, float32 (n,).
    """
    makers = {AS_IS: lambda picture: picture, **TWINS}
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in makers}
    for start in range(0, len(indices), batch_size):
        pictures = dataset.pixels[indices[start : start + batch_size]]
        for name, make in makers.items():
            columns[name].append(predict(np.stack([make(picture) for picture in pictures])))
    logits = {name: np.concatenate(parts).astype(np.float64) for name, parts in columns.items()}
    return Predictions(
        names=[dataset.files[index].name for index in indices],
        labels=dataset.labels[indices],
        logits=logits.pop(AS_IS),
        twins=logits,
    )


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write one line a picture: name, label, logit, and the logit of each twin."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", AS_IS, *predictions.twins])
        columns = [predictions.logits, *predictions.twins.values()]
        for index, name in enumerate(predictions.names):
            values = [f"{column[index]:.5f}" for column in columns]
            writer.writerow([name, int(predictions.labels[index]), *values])


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    logits = {name: np.array([float(row[name]) for row in rows]) for name in [AS_IS, *TWINS]}
    return Predictions(
        names=[row["name"] for row in rows],
        labels=np.array([int(row["label"]) for row in rows], dtype=np.int64),
        logits=logits.pop(AS_IS),
        twins=logits,
    )
