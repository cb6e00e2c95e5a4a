"""The bench's rows as a picture: each ratio as a bar, 1 where both are equal."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import Row

GOOD, BAD = "#2a7f62", "#b8492e"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG of every row that has a peer; none where no row has."""
    shown = [row for row in rows if row.ratio is not None][::-1]
    if not shown:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.28 * len(shown)), layout="constrained")
    ratios = [row.ratio or 0.0 for row in shown]
    colours = [GOOD if is_better(row) else BAD for row in shown]
    bars = axes.barh([f"{row.name} ({row.unit}) / {row.peer}" for row in shown], ratios)
    for bar, colour, ratio in zip(bars, colours, ratios, strict=True):
        bar.set_color(colour)
        axes.annotate(f" {ratio:.2f}", (ratio, bar.get_y() + bar.get_height() / 2), va="center")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("ours / peer; green: ours is better")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def is_better(row: Row) -> bool:
    """Rates should be high; times and sizes low."""
    ratio = row.ratio or 0.0
    return ratio >= 1 if row.unit.endswith("/s") else ratio <= 1
