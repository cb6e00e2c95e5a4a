"""`python -m tests.bench`: time what matters beside peers; a table, and var/bench.json.

Exit status: 0 all was done, 1 a run failed (then no JSON is written), 2 wrong usage.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table

from tests.bench import commands, inference, ingest, pages, picture, pixels, system
from tests.bench.harness import Failed, Plan, Row, Series, Unavailable
from tests.bench.servers import ROOT

ROUNDS = 3
COLUMNS: dict[str, JustifyMethod] = {
    "what": "left",
    "unit": "left",
    "median": "right",
    "min-max": "right",
    "peer": "left",
    "peer's": "right",
    "ratio": "right",
}


class Bench(Protocol):
    UNIT: str

    def run(self, plan: Plan) -> list[Row]: ...


# TensorFlow's threads come last: they stay.
BENCHES: dict[str, Bench] = {
    "ingest": ingest,
    "pixels": pixels,
    "results": commands,
    "pages": pages,
    "system": system,
    "inference": inference,
}


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    console, errors = Console(), Console(stderr=True)
    options.json.unlink(missing_ok=True)  # what lies there afterwards is of this run
    rows, failures = _run_all(options, errors)
    console.print(table(rows))
    for reason in {row.ours.skipped or row.theirs.skipped: None for row in rows}:
        if reason:
            console.print(f"skipped: {reason}", markup=False)
    if failures:
        for failure in failures:
            errors.print(f"FAILED  {failure}", style="bold red", markup=False)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([row.record() for row in rows], indent=2) + "\n")
    picture.draw(rows, options.json.with_suffix(".png"))
    console.print(f"written to {options.json}", soft_wrap=True)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHES, help="run this bench; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of each comparison ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round of little work")
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "bench.json")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _run_all(options: argparse.Namespace, console: Console) -> tuple[list[Row], list[str]]:
    """Run the chosen benches; one that fails does not keep the next from its turn."""
    rows: list[Row] = []
    failures: list[str] = []
    parent = ROOT / "var" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix="run-") as folder,
        console.status("") as status,
    ):
        plan = Plan(
            folder=Path(folder), rounds=options.rounds, quick=options.quick, note=status.update
        )
        for name, bench in BENCHES.items():
            if options.only and name not in options.only:
                continue
            try:
                rows += bench.run(plan)
            except Unavailable as reason:
                rows.append(Row(name=name, unit=bench.UNIT, ours=Series(skipped=str(reason))))
            except Failed as reason:
                failures.append(str(reason))
    return rows, failures


def table(rows: Sequence[Row]) -> Table:
    load = os.getloadavg()[0]
    shown = Table(
        title=f"cxr-worker bench · {os.cpu_count()} cores, load {load:.1f}",
        caption="ratio of medians, ours / peer: below 1 is better for ms and s, above 1 for …/s",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column, justify in COLUMNS.items():
        shown.add_column(column, justify=justify)
    for row in rows:
        shown.add_row(
            row.name,
            row.unit,
            _median(row.ours),
            _spread(row.ours),
            row.peer or "",
            _median(row.theirs) if row.peer else "",
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    return shown


def _median(series: Series) -> str:
    return "skipped" if series.median is None else f"{series.median:.3g}"


def _spread(series: Series) -> str:
    return f"{min(series.values):.3g}-{max(series.values):.3g}" if series.values else ""


if __name__ == "__main__":
    sys.exit(main())
