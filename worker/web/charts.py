"""Charts as plain numbers for a template's SVG: no script, no picture library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.drift import Expected

WIDTH, HEIGHT = 600.0, 160.0
DOT = 4.0
STACK = ("negative", "none", "review", "positive")  # from the bottom up


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A rectangle in a chart of WIDTH x HEIGHT, y downwards; kind chooses its look."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    bars: tuple[Bar, ...]
    labels: tuple[tuple[float, str], ...]  # below the axis
    highest: str  # what the top stands for
    summary: str  # the chart in words


def throughput(rows: Sequence[Mapping[str, Any]], since: datetime, days: int) -> Chart:
    """Studies a day, stacked by band. rows: day, band, count."""
    named = [(since + timedelta(days=number)).strftime("%Y-%m-%d") for number in range(days + 1)]
    counts: dict[str, dict[str, int]] = {day: dict.fromkeys(STACK, 0) for day in named}
    for row in rows:
        if row["day"] in counts:
            counts[row["day"]][row["band"] or "none"] += row["count"]
    totals = {day: sum(by_band.values()) for day, by_band in counts.items()}
    highest = max(*totals.values(), 1)
    step = WIDTH / len(named)
    bars = []
    for number, day in enumerate(named):
        top = HEIGHT
        for kind in STACK:
            height = counts[day][kind] / highest * HEIGHT
            top -= height
            if height:
                bars.append(
                    _bar(
                        number * step, top, step, height, kind, f"{day}: {counts[day][kind]} {kind}"
                    )
                )
    labels = tuple(
        ((number + 0.5) * step, day[5:]) for number, day in enumerate(named) if number % 2 == 0
    )
    total = sum(totals.values())
    return Chart(
        bars=tuple(bars),
        labels=labels,
        highest=f"{highest} studies",
        summary=f"{total} studies in {days} days, at most {highest} in one day",
    )


def distribution(expected: Expected, counts: Sequence[int]) -> Chart:
    """Shares of images by logit, beside what is expected, in bins of equal expectation."""
    total = max(sum(counts), 1)
    found = [count / total for count in counts]
    highest = max(*expected.shares, *found)
    step = WIDTH / len(expected.shares)
    bars = []
    for number, (was, now) in enumerate(zip(expected.shares, found, strict=True)):
        left = number * step
        for offset, share, kind in ((0.0, was, "expected"), (step / 2, now, "found")):
            height = share / highest * HEIGHT
            title = f"bin {number + 1}: {share:.1%} {kind}"
            bars.append(_bar(left + offset, HEIGHT - height, step / 2, height, kind, title))
    labels = tuple(
        ((number + 1) * step, f"{edge:.1f}") for number, edge in enumerate(expected.edges)
    )
    return Chart(
        bars=tuple(bars),
        labels=labels,
        highest=f"{highest:.0%}",
        summary="; ".join(bar.title for bar in bars),
    )


def differences(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """A dot for each image: its mean probability to the right, the challenger's excess upwards.

    After Bland and Altman. rows: of `model_comparisons`. The line in the middle is agreement.
    """
    pairs = [
        (row["champion_probability"], row["challenger_probability"], row)
        for row in rows
        if None not in (row["champion_probability"], row["challenger_probability"])
    ]
    highest = max([abs(theirs - mine) for mine, theirs, _ in pairs], default=0.0) or 0.01
    bars = [Bar(x=0, y=HEIGHT / 2, width=WIDTH, height=1, kind="expected", title="no difference")]
    for mine, theirs, row in pairs:
        same = row["champion_band"] == row["challenger_band"]
        bars.append(
            Bar(
                x=round((mine + theirs) / 2 * (WIDTH - DOT), 1),
                y=round((1 - (theirs - mine) / highest) / 2 * (HEIGHT - DOT), 1),
                width=DOT,
                height=DOT,
                kind="found" if same else "positive",
                title=f"{mine:.1%}, challenger {theirs:.1%}",
            )
        )
    labels = tuple((share * WIDTH, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return Chart(
        bars=tuple(bars),
        labels=labels,
        highest=f"±{highest:.1%}",
        summary=f"{len(pairs)} images, no difference larger than {highest:.1%}",
    )


def _bar(x: float, y: float, width: float, height: float, kind: str, title: str) -> Bar:
    return Bar(
        x=round(x + 1, 1),
        y=round(y, 1),
        width=round(max(width - 2, 1), 1),
        height=round(height, 1),
        kind=kind,
        title=title,
    )
