"""The report as one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.evaluation.figures import title_of
from model.evaluation.metrics import BOOTSTRAP_ROUNDS

TEMPLATE = "page.html"
ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """address: a data URI. caption: its lines."""

    address: str
    caption: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    title: str
    text: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Table:
    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is on the page besides the report's figures.

    facts: names and values at the top. notes: paragraphs on how it was made. figures: as
    `figures.figures` gives them.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    figures: Mapping[str, str]
    galleries: Sequence[Gallery] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)


def render(page: Page, report: Mapping[str, Any]) -> str:
    """The page for what `report.evaluate` returned."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "fixed": _fixed,
        "percent": _percent,
        "point": title_of,
        "threshold": _threshold,
    }
    template = environment.get_template(TEMPLATE)
    return template.render(page=page, report=report, rounds=BOOTSTRAP_ROUNDS) + "\n"


def _fixed(value: float | None, digits: int = 4) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None else f"{100 * value:.{digits}f} %"


def _threshold(value: float | Sequence[float]) -> str:
    """One value, or what several range over."""
    if isinstance(value, float | int):
        return f"{value:.3f}"
    return f"{min(value):.3f} to {max(value):.3f}"
