"""How far two models agree on the same pictures, in few numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

BANDS = ("negative", "review", "positive", "none")
LIMITS_SD = 1.96  # of agreement, as Bland and Altman have them


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of the rows of `model_comparisons` of one challenger.

    table: (champion's band, challenger's band) to count. difference: challenger's probability
    less champion's, its mean and the limits within which 95 % of them are expected.
    """

    champion: str
    challenger: str
    states: Mapping[str, int]
    table: Mapping[tuple[str, str], int]
    same_band: float | None
    mean_difference: float | None
    limits: tuple[float, float] | None
    champion_s: float | None
    challenger_s: float | None


def agreement(rows: Sequence[Mapping[str, Any]]) -> Agreement | None:
    """None where nothing was compared."""
    if not rows:
        return None
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
    both = [row for row in rows if row["state"] == "predicted"]
    table = {(mine, theirs): 0 for mine in BANDS for theirs in BANDS}
    for row in both:
        table[row["champion_band"] or "none", row["challenger_band"] or "none"] += 1
    same = sum(count for (mine, theirs), count in table.items() if mine == theirs)
    differences = [
        row["challenger_probability"] - row["champion_probability"]
        for row in both
        if None not in (row["challenger_probability"], row["champion_probability"])
    ]
    mean = _mean(differences)
    limits = None
    if mean is not None and len(differences) > 1:
        spread = sqrt(sum((it - mean) ** 2 for it in differences) / (len(differences) - 1))
        limits = (mean - LIMITS_SD * spread, mean + LIMITS_SD * spread)
    newest = rows[0]
    return Agreement(
        champion=f"{newest['champion_name']} {newest['champion_version']}",
        challenger=f"{newest['challenger_name']} {newest['challenger_version']}",
        states=states,
        table=table,
        same_band=same / len(both) if both else None,
        mean_difference=mean,
        limits=limits,
        champion_s=_mean([row["champion_s"] for row in both]),
        challenger_s=_mean([row["challenger_s"] for row in both]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
