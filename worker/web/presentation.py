"""What a reader is shown of a result: the band by shape and word, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

# A shape for each, so that colour only repeats what shape and word say.
_SHAPES = {"positive": "▲", "review": "◆", "negative": "●", "outside": "○", "none": "\N{EN DASH}"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """kind: positive, review, negative, outside or none; probability: None where none is shown."""

    kind: str
    text: str
    probability: float | None

    @property
    def shape(self) -> str:
        return _SHAPES[self.kind]


def shown(row: Mapping[str, Any], *, withhold: bool) -> Shown:
    """Show a study or an image. withhold: outside the intended use there is no probability."""
    state, band = row["state"], row["band"]
    if state == "failed":
        return Shown(kind="none", text="failed", probability=None)
    if band is None:
        waits = state not in ("reported", "rejected")
        return Shown(kind="none", text="in progress" if waits else "not analysed", probability=None)
    use = row["intended_use"]
    if withhold and use != "inside":
        text = "outside intended use" if use == "outside" else "intended use unknown"
        return Shown(kind="outside", text=text, probability=None)
    return Shown(kind=band, text=band, probability=row["probability"])


@dataclass(frozen=True, kw_only=True)
class Tick:
    x: float
    text: str


class Scale:
    """Probabilities from left to right by their log odds, in units of an SVG."""

    WIDTH = 600.0
    LOWEST, HIGHEST = 0.0005, 0.9995

    def x(self, probability: float) -> float:
        low, high = _log_odds(self.LOWEST), _log_odds(self.HIGHEST)
        within = min(max(probability, self.LOWEST), self.HIGHEST)
        return round((_log_odds(within) - low) / (high - low) * self.WIDTH, 1)

    @property
    def ticks(self) -> list[Tick]:
        shares = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
        return [Tick(x=self.x(share), text=f"{share * 100:g} %") for share in shares]


def _log_odds(probability: float) -> float:
    return log(probability / (1 - probability))
