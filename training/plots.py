"""The evaluation as one picture: ROC, reliability, histogram, confusion matrix."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.bundle import OperatingPoints
from model.calibration import sigmoids
from training.dataset import CLASSES
from training.evaluate import count
from training.ood import FittedOod
from training.predictions import Predictions

NORMAL_COLOUR, PNEUMONIA_COLOUR = "#2f6f9f", "#c8553d"
RELIABILITY_BINS = 10
OOD_AXIS_END = 3.0  # score


def draw_evaluation(
    path: Path, predictions: Predictions, points: OperatingPoints, report: dict[str, Any]
) -> None:
    """Write a PNG of four panels. report: what `evaluate` returned for the same predictions."""
    probabilities = sigmoids(predictions.logits / report["temperature"])
    figure = Figure(figsize=(9, 8), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_roc(axes[0, 0], predictions, points, report)
    _draw_reliability(axes[0, 1], predictions, probabilities, report)
    _draw_histogram(axes[1, 0], predictions, probabilities)
    _draw_confusion(axes[1, 1], predictions, points)
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


def _draw_roc(
    ax: Axes, predictions: Predictions, points: OperatingPoints, report: dict[str, Any]
) -> None:
    from sklearn.metrics import roc_curve

    false_positive, sensitivity, _ = roc_curve(predictions.labels, predictions.logits)
    ax.plot(false_positive, sensitivity, color="black", linewidth=1.5)
    marks = {"rule_out": "v", "balanced": "o", "rule_in": "^"}
    for name, marker in marks.items():
        at = count(predictions.labels, predictions.logits, getattr(points, name).threshold)
        label = f"{name.replace('_', '-')}: {at.sensitivity:.3f} / {at.specificity:.3f}"
        ax.plot(1 - at.specificity, at.sensitivity, marker, label=label, markersize=8, alpha=0.8)
    interval = f"{report['auc_low']:.4f} to {report['auc_high']:.4f}"
    ax.set_title(f"ROC, AUC {report['auc']:.4f} (95 % {interval})", fontsize=11)
    ax.set(xlim=(-0.005, 0.2), ylim=(0.8, 1.005))
    ax.set(xlabel="1 - specificity (axis ends at 0.2)", ylabel="sensitivity (axis starts at 0.8)")
    ax.legend(title="sensitivity / specificity", loc="lower right")
    ax.grid(alpha=0.3)


def _draw_reliability(
    ax: Axes, predictions: Predictions, probabilities: Any, report: dict[str, Any]
) -> None:
    bins = np.minimum((probabilities * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    sizes = np.bincount(bins, minlength=RELIABILITY_BINS)
    used = sizes > 0
    predicted = np.bincount(bins, probabilities, RELIABILITY_BINS)[used] / sizes[used]
    observed = np.bincount(bins, predictions.labels, RELIABILITY_BINS)[used] / sizes[used]
    low, high = wilson_interval(observed, sizes[used])
    ax.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    spread = [np.maximum(0, observed - low), np.maximum(0, high - observed)]
    ax.errorbar(predicted, observed, spread, fmt="o", color="black", capsize=3, linewidth=1)
    for x, y, size in zip(predicted, observed, sizes[used], strict=True):
        ax.annotate(f"{size}", (x, y), xytext=(6, -3), textcoords="offset points", fontsize=8)
    title = f"Reliability, ECE {report['ece']:.4f}, Brier {report['brier']:.4f}"
    ax.set_title(title, fontsize=11)
    ax.set(xlim=(-0.03, 1.1), ylim=(-0.03, 1.03))
    ax.set(xlabel="calibrated probability (beside: images)", ylabel="share of pneumonia, 95 %")
    ax.grid(alpha=0.3)


def wilson_interval(shares: Any, sizes: Any) -> tuple[Any, Any]:
    """95 % interval of observed shares, (n,), that stays within [0, 1] (Wilson 1927)."""
    z2 = 1.96**2
    centre = (shares + z2 / (2 * sizes)) / (1 + z2 / sizes)
    half = np.sqrt(z2 * shares * (1 - shares) / sizes + z2**2 / (4 * sizes**2)) / (1 + z2 / sizes)
    return centre - half, centre + half


def _draw_histogram(ax: Axes, predictions: Predictions, probabilities: Any) -> None:
    by_class = [probabilities[predictions.labels == label] for label in range(len(CLASSES))]
    ax.hist(
        by_class,
        bins=np.linspace(0, 1, 11).tolist(),
        color=[NORMAL_COLOUR, PNEUMONIA_COLOUR],
        label=[f"{name} (n = {len(of)})" for name, of in zip(CLASSES, by_class, strict=True)],
    )
    ax.set_ylim(bottom=0.7)  # a single image must show
    ax.set_yscale("log")
    ax.set_title("Calibrated probability by class", fontsize=11)
    ax.set(xlabel="calibrated probability of pneumonia", ylabel="images (log scale)")
    ax.legend(loc="upper center")


def _draw_confusion(ax: Axes, predictions: Predictions, points: OperatingPoints) -> None:
    at = count(predictions.labels, predictions.logits, points.balanced.threshold)
    cells = np.array([[at.true_negative, at.false_positive], [at.false_negative, at.true_positive]])
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"  # noqa: PLR2004
            text = f"{cells[row, column]}\n{share:.1%}"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    ax.set_title(f"Balanced operating point, accuracy {at.accuracy:.3f}", fontsize=11)
    ax.set_xticks([0, 1], CLASSES)
    ax.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    ax.set(xlabel="predicted", ylabel="label")
