"""What a recipe's outputs stand for, and how they become the one logit that is served.

Two classes are one logit; more are one logit each, the first of them normal. The served graph
then ends in log(sum of the odds of every other class to normal): its sigmoid is exactly one minus
the softmax's share of normal, so the worker, calibration and bands know nothing of more classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.dataset import CLASSES, ImageFile
from training.errors import DatasetError

LOGITS = "logits"  # the layer that every recipe ends in

Labels = NDArray[np.int64]
Outputs = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Target:
    """classes: their names, normal or negative first. label_of: a picture's index among them."""

    classes: tuple[str, ...]
    label_of: Callable[[ImageFile], int]

    def labels(self, files: Sequence[ImageFile]) -> Labels:
        return np.array([self.label_of(file) for file in files], dtype=np.int64)


def _type_of(file: ImageFile) -> int:
    """The Kaggle set's names carry it: `person12_bacteria_3.jpeg`, `person12_virus_30.jpeg`.

    Raises DatasetError for a pneumonia whose name tells no type.
    """
    if file.label == 0:
        return 0
    for label, word in ((1, "_bacteria_"), (2, "_virus_")):
        if word in PurePath(file.name).name:
            return label
    raise DatasetError(f"{file.name}: no bacteria or virus in the name, as the Kaggle set has it")


TWO_CLASSES = Target(classes=CLASSES, label_of=lambda file: file.label)
TYPES = Target(classes=("NORMAL", "BACTERIAL", "VIRAL"), label_of=_type_of)


def loss_of(target: Target) -> Any:
    """The Keras loss of raw logits against labels (n, 1)."""
    import keras

    if len(target.classes) == len(CLASSES):
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def served(network: Any, target: Target) -> Any:
    """The keras.Model that ends in one logit, (n, 1), sharing the layers of `network`."""
    import keras

    if len(target.classes) == len(CLASSES):
        return network
    logits = network.output
    sick = keras.ops.logsumexp(logits[:, 1:], axis=1, keepdims=True)
    return keras.Model(network.input, sick - logits[:, :1], name=network.name)


def balanced_weights(labels: Labels, class_count: int) -> dict[int, float]:
    """Weights of losses under which every class counts the same."""
    counts = np.bincount(labels, minlength=class_count)
    return {
        label: len(labels) / (class_count * max(1, int(count)))
        for label, count in enumerate(counts)
    }


def undo_weights(network: Any, weights: dict[int, float]) -> None:
    """Move the last biases so that the logits are true to the training set's prevalence again.

    Weighted losses fit the odds of another prior: those of the classes times their weights.
    """
    kernel, bias = network.get_layer(LOGITS).get_weights()
    shift = -np.log([weights[label] for label in sorted(weights)])
    bias = bias + (shift[1:] - shift[:1] if len(bias) == 1 else shift)
    network.get_layer(LOGITS).set_weights([kernel, bias.astype(kernel.dtype)])


def log_probabilities(outputs: Outputs) -> NDArray[np.float64]:
    """Of every class, (n, classes), from raw outputs, (n, 1) for two classes or (n, classes)."""
    logits = outputs.astype(np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return np.asarray(logits - total, dtype=np.float64)


def cross_entropy(outputs: Outputs, labels: Labels) -> float:
    """Mean, in nats."""
    return -float(log_probabilities(outputs)[np.arange(len(labels)), labels].mean())


def accuracy(outputs: Outputs, labels: Labels) -> float:
    """Share of pictures whose most probable class is the right one."""
    return float(np.mean(log_probabilities(outputs).argmax(axis=1) == labels))
