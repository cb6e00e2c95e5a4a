"""How long a person waits for `cxr-worker results`, from its start to its exit."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from db import arrivals, claims, outcomes, reports, schema
from db.engine import Database
from tests.bench.harness import Failed, Plan, Row, compare
from tests.bench.servers import ROOT
from tests.support import rows as made

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
    """Reported studies of one image, written as listener and workers write them."""
    database = Database(f"sqlite:///{path}")
    schema.upgrade(database)
    with database.begin() as tx:
        for number in range(STUDIES):
            study, uid = f"1.2.3.{number}", f"1.2.3.{number}.1"
            arrival = made.arrival(uid, study)
            arrivals.record_arrival(tx, arrival, settle_s=0, max_age_days=7)
            (held,) = claims.claim(tx, claims.PREPARE, limit=1, lease_s=60, first=uid)
            outcomes.record_prepared(tx, held, made.PICTURE, intended_use="inside")
            (held,) = claims.claim(tx, claims.INFER, limit=1, lease_s=60, first=uid)
            outcomes.record_prediction(tx, held, made.PREDICTION)
            (held,) = claims.claim(tx, claims.REPORT, limit=1, lease_s=60, first=study)
            revision = reports.snapshot(tx, held.id).revision
            built = made.built_report(f"1.2.4.{number}")
            reports.record_report(tx, held, revision, made.RESULT, built)
    database.dispose()


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
    if (listed := completed.stdout.count("reported")) < STUDIES:
        raise Failed(f"{STUDIES} studies were written, {listed} are listed")
    return elapsed_s
