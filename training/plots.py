"""Pictures for a bundle's model card; the report's own figures are in `model.evaluation`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from model.evaluation.cases import Cases
from model.evaluation.figures import (
    NORMAL_COLOUR,
    PNEUMONIA_COLOUR,
    draw_confusion,
    draw_probabilities,
    draw_reliability,
    draw_roc,
)
from training.ood import FittedOod

OOD_AXIS_END = 3.0  # score


def draw_evaluation(path: Path, cases: Cases, report: dict[str, Any]) -> None:
    """Write a PNG of four panels. report: what `evaluate` returned for the same cases."""
    figure = Figure(figsize=(9, 8), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2)
    draw_roc(axes[0, 0], cases, report)
    draw_reliability(axes[0, 1], cases, report)
    draw_probabilities(axes[1, 0], cases)
    draw_confusion(axes[1, 1], report["operating_points"]["balanced"], "balanced")
    figure.savefig(path)


def draw_ood(path: Path, fitted: FittedOod) -> None:
    """Write a PNG: how far chests, spoiled chests and other pictures are, with both limits."""
    spoiled = np.array(["chest" in it.kind for it in fitted.negatives])
    groups = {
        f"validation chests (n = {len(fitted.validation_scores)})": fitted.validation_scores,
        f"chests turned, cut, inverted (n = {spoiled.sum()})": fitted.negative_scores[spoiled],
        f"other pictures (n = {(~spoiled).sum()})": fitted.negative_scores[~spoiled],
    }
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    ax = figure.subplots()
    colours = [NORMAL_COLOUR, "#d9a441", PNEUMONIA_COLOUR]
    for (label, scores), colour in zip(groups.items(), colours, strict=True):
        shown = np.minimum(scores, OOD_AXIS_END)
        weights = np.full(len(shown), 1 / len(shown))
        bins = np.linspace(0, OOD_AXIS_END, 61).tolist()
        ax.hist(shown, bins=bins, weights=weights, color=colour, alpha=0.65, label=label)
    report = fitted.report
    ax.axvline(report.limit, color="black", linewidth=1, label="limit: outside the intended use")
    ax.axvline(report.far_limit, color="black", linestyle="--", label="far limit: rejected")
    adults = report.adult_scores
    ax.plot(adults, [0.01] * len(adults), "k^", label="one adult chest, several files")
    ax.set_title(f"Out-of-distribution score, AUROC {report.auroc:.4f} on blind sources")
    ax.set(xlabel=f"score (those above {OOD_AXIS_END} at the end)", ylabel="share of the group")
    ax.set_ylim(top=0.45)
    ax.legend(fontsize=8, loc="upper right")
    figure.savefig(path)
