"""The report's figures, each drawn into given axes; `as_svg` makes them part of a page."""

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np

from model.evaluation.cases import CLASSES, Cases
from model.evaluation.metrics import wilson_interval

NORMAL_COLOUR, PNEUMONIA_COLOUR = "#2f6f9f", "#c8553d"
COLOURS = (NORMAL_COLOUR, PNEUMONIA_COLOUR)
MARKERS = {"rule_out": "v", "balanced": "o", "rule_in": "^"}
RELIABILITY_BINS = 10
LOGIT_END = 12.0
ZOOM_FROM_AUC = 0.95

Draw = Callable[[Any], None]
Report = Mapping[str, Any]


def title_of(point: str) -> str:
    """`rule_in_95` as people read it."""
    return {"rule_in_95": "rule-in at 0.95"}.get(point, point.replace("_", "-"))


def as_svg(draw: Draw, width: float = 5.2, height: float = 4.4) -> str:
    """A figure of this size in inches as the address of an image, without another file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "cxr-worker", "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def figures(cases: Cases, report: Report, log: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """All figures of the page by name. log: a run's, one row an epoch, or none."""
    made = {
        "roc": as_svg(lambda ax: draw_roc(ax, cases, report)),
        "precision_recall": as_svg(lambda ax: draw_precision_recall(ax, cases, report)),
        "reliability": as_svg(lambda ax: draw_reliability(ax, cases, report)),
        "probabilities": as_svg(lambda ax: draw_probabilities(ax, cases)),
        "logits": as_svg(lambda ax: draw_logits(ax, cases)),
    }
    for point, at in report["operating_points"].items():
        draw = partial(draw_confusion, at=at, title=title_of(point))
        made[f"confusion_{point}"] = as_svg(draw, 3.1, 2.9)
    if log:
        losses = ("loss", "watched_loss", "validation_loss")
        made["loss"] = as_svg(lambda ax: draw_log(ax, log, "loss", losses))
        accuracies = ("watched_accuracy", "validation_accuracy")
        made["training_accuracy"] = as_svg(lambda ax: draw_log(ax, log, "accuracy", accuracies))
    return made


def draw_roc(ax: Any, cases: Cases, report: Report) -> None:
    """ROC with the operating points; the corner again, larger, when the rest is empty."""
    from sklearn.metrics import roc_curve

    alarms, hits, _ = roc_curve(cases.labels, cases.logits)

    def draw(on: Any) -> None:
        on.plot(alarms, hits, color="black", linewidth=1.4)
        for name, marker in MARKERS.items():
            at = report["operating_points"][name]
            label = f"{title_of(name)}: {at['sensitivity']:.3f} / {at['specificity']:.3f}"
            _mark(on, marker, 1 - at["specificity"], at["sensitivity"], label)
        on.grid(alpha=0.3)

    draw(ax)
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="1 - specificity", ylabel="sensitivity")
    interval = f"{report['auc_low']:.4f} to {report['auc_high']:.4f}"
    ax.set_title(f"ROC, AUC {report['auc']:.4f} (95 % {interval})", fontsize=10.5)
    if report["auc"] >= ZOOM_FROM_AUC:
        _zoom(ax, draw, (0.36, 0.4, 0.58, 0.48), xlim=(-0.004, 0.2), ylim=(0.8, 1.004))
    ax.legend(
        title="sensitivity / specificity", loc="lower right", fontsize=8.5, title_fontsize=8.5
    )


def draw_precision_recall(ax: Any, cases: Cases, report: Report) -> None:
    """Precision against recall of pneumonia, above the share of pneumonia; a corner likewise."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(cases.labels, cases.logits)

    def draw(on: Any) -> None:
        on.plot(recall, precision, color="black", linewidth=1.4, drawstyle="steps-post")
        for name, marker in MARKERS.items():
            it = report["operating_points"][name]["classes"]["PNEUMONIA"]
            label = f"{title_of(name)}: {it['precision']:.3f} / {it['recall']:.3f}"
            _mark(on, marker, it["recall"], it["precision"], label)
        on.grid(alpha=0.3)

    draw(ax)
    share = report["prevalence"]
    ax.axhline(share, color="grey", linewidth=0.8, linestyle=":")
    below = share > 0.5  # noqa: PLR2004  # clear of the legend or of the inset
    at = (0.62, share - 0.01 if below else share + 0.01)
    ax.annotate(f"share of pneumonia {share:.3f}", at, va="top" if below else "bottom", fontsize=8)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="recall", ylabel="precision")
    low, high = report["average_precision_low"], report["average_precision_high"]
    area = f"{report['average_precision']:.4f} (95 % {low:.4f} to {high:.4f})"
    ax.set_title(f"Precision-recall, area {area}", fontsize=10.5)
    if report["auc"] >= ZOOM_FROM_AUC:
        _zoom(ax, draw, (0.14, 0.36, 0.58, 0.32), xlim=(0.8, 1.004), ylim=(0.9, 1.002))
    ax.legend(title="precision / recall", loc="lower left", fontsize=8.5, title_fontsize=8.5)


def _mark(ax: Any, marker: str, x: float, y: float, label: str) -> None:
    ax.plot(x, y, marker, markersize=8, alpha=0.8, label=label)


def _zoom(
    ax: Any,
    draw: Draw,
    bounds: tuple[float, float, float, float],
    *,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
) -> None:
    """Draw once more into an inset; bounds: left, bottom, width, height in shares of the axes."""
    inset = ax.inset_axes(bounds)
    draw(inset)
    inset.set(xlim=xlim, ylim=ylim)
    inset.tick_params(labelsize=8)
    ax.indicate_inset_zoom(inset, edgecolor="grey")


def draw_confusion(ax: Any, at: Report, title: str) -> None:
    """Counts, and below each its share of the label's row."""
    cells = np.array(
        [
            [at["true_negative"], at["false_positive"]],
            [at["false_negative"], at["true_positive"]],
        ]
    )
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(2):
        for column in range(2):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"  # noqa: PLR2004
            text = f"{cells[row, column]}\n{share:.1%}"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
    ax.set_title(f"{title}, accuracy {at['accuracy']:.4f}", fontsize=10.5)
    ax.set_xticks([0, 1], CLASSES, fontsize=8.5)
    ax.set_yticks([0, 1], CLASSES, rotation=90, va="center", fontsize=8.5)
    ax.set(xlabel="called", ylabel="label")


def draw_reliability(ax: Any, cases: Cases, report: Report) -> None:
    """Share of pneumonia against calibrated probability, in ten bins."""
    bins = np.minimum((cases.probabilities * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    sizes = np.bincount(bins, minlength=RELIABILITY_BINS)
    used = sizes > 0
    predicted = np.bincount(bins, cases.probabilities, RELIABILITY_BINS)[used] / sizes[used]
    observed = np.bincount(bins, cases.labels, RELIABILITY_BINS)[used] / sizes[used]
    low, high = wilson_interval(observed, sizes[used])
    ax.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    spread = [np.maximum(0, observed - low), np.maximum(0, high - observed)]
    ax.errorbar(predicted, observed, spread, fmt="o", color="black", capsize=3, linewidth=1)
    for x, y, size in zip(predicted, observed, sizes[used], strict=True):
        ax.annotate(f"{size}", (x, y), xytext=(6, -3), textcoords="offset points", fontsize=8)
    title = f"Reliability, ECE {report['ece']:.4f}, Brier {report['brier']:.4f}"
    ax.set_title(title, fontsize=10.5)
    ax.set(xlim=(-0.03, 1.1), ylim=(-0.03, 1.03), ylabel="share of pneumonia, 95 % interval")
    ax.set_xlabel(f"calibrated probability (beside: {report['units']})")
    ax.grid(alpha=0.3)


def draw_probabilities(ax: Any, cases: Cases) -> None:
    """Calibrated probability of each class in twenty bins, on a log scale."""
    _histogram(ax, cases, cases.probabilities, np.linspace(0, 1, 21))
    ax.set_title("Calibrated probability by class", fontsize=10.5)
    ax.set_xlabel("calibrated probability of pneumonia")


def draw_logits(ax: Any, cases: Cases) -> None:
    """Raw logits of each class, with the thresholds."""
    shown = np.clip(cases.logits, -LOGIT_END, LOGIT_END)
    _histogram(ax, cases, shown, np.linspace(-LOGIT_END, LOGIT_END, 41))
    for point, style in zip(MARKERS, ("--", "-", ":"), strict=True):
        for index, rule in enumerate(cases.rules):
            label = title_of(point) if index == 0 else None
            ax.axvline(rule.thresholds[point], color="black", linewidth=1, ls=style, label=label)
    ax.set_title("Raw logit by class, and the thresholds", fontsize=10.5)
    ax.set_xlabel(f"raw logit (those beyond {LOGIT_END:g} at the ends)")
    ax.legend(fontsize=8, loc="upper center", ncols=2, framealpha=1)


def _histogram(ax: Any, cases: Cases, values: Any, edges: Any) -> None:
    for label, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True)):
        of = values[cases.labels == label]
        ax.hist(of, bins=edges.tolist(), color=colour, alpha=0.6, label=f"{name} (n = {len(of)})")
    ax.set_yscale("log")
    top = max(2.0, ax.get_ylim()[1])
    ax.set_ylim(bottom=0.7, top=top**1.25)  # a single one shows; room for the legend
    ax.set_ylabel(f"{cases.units} (log scale)")
    ax.legend(loc="upper center", fontsize=8.5)


def draw_log(ax: Any, log: Sequence[Mapping[str, float]], what: str, names: Sequence[str]) -> None:
    """Those columns of a run's log that there are, by epoch."""
    epochs = [row["epoch"] for row in log]
    colours = {"watched": NORMAL_COLOUR, "validation": PNEUMONIA_COLOUR}
    for name in names:
        if name in log[0]:
            colour = colours.get(name.partition("_")[0], "black")
            values = [row[name] for row in log]
            ax.plot(
                epochs, values, "o-", color=colour, markersize=3.5, label=name.replace("_", " ")
            )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch", ylabel=what, title=f"Training: {what}")
    ax.title.set_fontsize(10.5)
    ax.legend(fontsize=8.5)
    ax.grid(alpha=0.3)


def picture_address(encoded: bytes, kind: str) -> str:
    """A JPEG's or PNG's bytes as the address of an image."""
    return f"data:image/{kind};base64," + base64.b64encode(encoded).decode()
