"""How rows reach a person or the next program: a table that fits the terminal, JSON, CSV."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

if TYPE_CHECKING:  # it takes a moment to load, and only tables need it
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 400
_MAY_SHRINK = {"study", "instance", "note", "reason", "comment", "error"}
_SHRUNK_MIN = 12
_GAP = 2  # between columns

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, str]]  # heading, name


def write_json(rows: Iterable[Row]) -> None:
    """One array, a row a line, written as the rows come."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json.dumps(plain(row)))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def write_csv(rows: Iterable[Row], names: Sequence[str]) -> None:
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(plain(row) for row in rows)


def plain(row: Row) -> dict[str, Any]:
    """A row of values that JSON knows: times in UTC, ISO 8601."""
    return {
        name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()
    }


def console() -> "Console":
    from rich.console import Console

    # A pipe has no width of its own: lines are not to be broken for the next program.
    is_terminal = sys.stdout.isatty()
    return Console(
        width=None if is_terminal else PIPE_WIDTH,
        soft_wrap=not is_terminal,
        highlight=False,
        markup=False,  # what a peer sent is no markup
        emoji=False,
    )


def make_table(rows: Sequence[Row], columns: Columns, timezone: str, width: int) -> "Table":
    """A table in which UIDs and texts give way when the terminal is narrow, never the rest."""
    from rich.table import Table

    cells = [[text(row[name], timezone) for _, name in columns] for row in rows]
    headings = [heading for heading, _ in columns]
    widths = _fit(
        [max(map(len, column)) for column in zip(headings, *cells, strict=True)], headings, width
    )
    table = Table(box=None, pad_edge=False)
    for heading, size in zip(headings, widths, strict=True):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", width=size)
    for line in cells:
        table.add_row(*line)
    return table


def _fit(widths: list[int], headings: Sequence[str], width: int) -> list[int]:
    """Take from the widest that may shrink, until all fit or none can give more."""
    widths = list(widths)
    giving = [number for number, heading in enumerate(headings) if heading in _MAY_SHRINK]
    while giving and sum(widths) + _GAP * (len(widths) - 1) > width:
        widest = max(giving, key=lambda number: widths[number])
        if widths[widest] <= _SHRUNK_MIN:
            break
        widths[widest] -= 1
    return widths


def print_table(rows: Sequence[Row], columns: Columns, timezone: str) -> None:
    if not rows:
        click.echo("nothing found")
        return
    where = console()
    where.print(make_table(rows, columns, timezone, where.width))


def text(value: Any, timezone: str = "UTC") -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=value.tzinfo or UTC).astimezone(ZoneInfo(timezone)):%F %T}"
    return str(value)
