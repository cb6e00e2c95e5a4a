"""How a recipe of more than two classes tells them apart, on its validation fold."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from model.evaluation.metrics import auc
from model.evaluation.page import Table
from training.fit import outputs_of
from training.recipe import Recipe
from training.run import Run
from training.targets import LOGITS, log_probabilities

Probabilities = NDArray[np.float64]


def assess_classes(run: Run, recipe: Recipe, cache: Path) -> dict[str, Any] | None:
    """Write classes.csv, a probability a class, and classes.json, which is returned.

    None for two classes. The probabilities are the softmax as trained, without the temperature,
    which belongs to the one served logit.
    """
    classes = recipe.target.classes
    if len(classes) == 2:  # noqa: PLR2004
        return None
    dataset, split = run.data(cache)
    network = keras.saving.load_model(run.final, compile=False)
    inner = keras.Model(network.input, network.get_layer(LOGITS).output)
    outputs = outputs_of(inner, dataset.pixels[split.validation])
    probabilities = np.exp(log_probabilities(outputs))
    files = [dataset.files[index] for index in split.validation]
    labels = recipe.target.labels(files)
    with run.classes_table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "class", *classes])
        for one, label, shares in zip(files, labels, probabilities, strict=True):
            writer.writerow([one.name, classes[label], *(f"{share:.5f}" for share in shares)])
    report = class_figures(labels, probabilities, classes)
    run.classes.write_text(json.dumps(report, indent=2) + "\n")
    return report


def class_figures(
    labels: NDArray[np.int64], probabilities: Probabilities, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy, confusion (rows: what it is, columns: what it is called), figures of each class.

    auc: of the class against all others; None where one side has no picture.
    """
    called = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, called), 1)
    right = confusion.diagonal()
    per_class = {}
    for index, name in enumerate(classes):
        is_it = (labels == index).astype(np.int64)
        per_class[name] = {
            "images": int(is_it.sum()),
            "recall": float(right[index] / max(1, confusion[index].sum())),
            "precision": float(right[index] / max(1, confusion[:, index].sum())),
            "auc": auc(is_it, probabilities[:, index]) if 0 < is_it.mean() < 1 else None,
        }
    return {
        "accuracy": float(right.sum() / len(labels)),
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "per_class": per_class,
    }


def table_of(figures: dict[str, Any]) -> Table:
    """Confusion and figures of each class, for the report's page."""
    rows = []
    for name, called in zip(figures["classes"], figures["confusion"], strict=True):
        one = figures["per_class"][name]
        rates = [f"{one['recall']:.4f}", f"{one['precision']:.4f}"]
        rows.append([name, *called, *rates, "-" if one["auc"] is None else f"{one['auc']:.4f}"])
    return Table(
        title=f"{len(figures['classes'])} classes",
        text=(
            "The network tells these apart; the other figures are of the one logit that is served. "
            f"A row holds the images of a class by what they are called: the most probable class. "
            f"Accuracy {figures['accuracy']:.4f}."
        ),
        columns=[
            "class",
            *(f"called {name}" for name in figures["classes"]),
            "recall",
            "precision",
            "AUC against the rest",
        ],
        rows=rows,
    )
