"""How long a person waits for `cxr-worker results`, from its start to its exit."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db import schema, tables
from db.engine import Database
from tests.bench.harness import Failed, Plan, Row, compare
from tests.bench.servers import ROOT
from tests.support import rows as made
from worker.cli.query import TABLE_ROWS_MAX

UNIT = "s"
STUDIES = 1000
ROUNDS = 5


def run(plan: Plan) -> list[Row]:
    home = plan.folder / "results"
    home.mkdir()
    plan.note(f"results: writing {STUDIES} studies")
    _fill(home / "cxr.db")
    plan = plan if plan.quick else replace(plan, rounds=max(ROUNDS, plan.rounds))
    found = []
    for form in ("table", "json"):
        name = f"results as {form}"
        found += compare(name, UNIT, partial(_time_s, home, form), {}, plan)
    return found


def _fill(path: Path) -> None:
    """One reported study, written as listener and workers write it, and its rows copied."""
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    made.arrive(database, f"{made.STUDY}.1")
    made.prepare(database, f"{made.STUDY}.1")
    made.predict(database, f"{made.STUDY}.1")
    made.report(database, f"{made.STUDY}.2")
    with database.begin() as tx:
        for table in (tables.studies, tables.instances, tables.reports):
            (row,) = tx.conn.execute(sa.select(table)).mappings()
            copies = [_copy(dict(row), number) for number in range(1, STUDIES)]
            tx.conn.execute(sa.insert(table), copies)
    database.dispose()


def _copy(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The same row under other keys and UIDs."""
    keys = {name: row[name] + number for name in ("id", "study_id") if name in row}
    uids = {name: f"{row[name]}.{number}" for name in row if name.endswith("instance_uid")}
    return {**row, **keys, **uids}


def _time_s(home: Path, form: str) -> float:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    started = time.perf_counter()
    completed = subprocess.run(
        [sys.executable, "-m", "worker.cli", "results", "--format", form],
        cwd=home,
        env=clean | {"CXR_HOME_DIR": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    elapsed_s = time.perf_counter() - started
    if completed.returncode != 0:
        raise Failed(f"ended with {completed.returncode}: {completed.stderr.strip()[-300:]}")
    expected = TABLE_ROWS_MAX if form == "table" else STUDIES
    if (listed := completed.stdout.count("reported")) < expected:
        raise Failed(f"{STUDIES} studies were written, {listed} are listed")
    return elapsed_s
