"""Mutated files through the real listener and workers, with good ones between them.

One file at a time, so that its time is its own: acknowledged, it ends in a row with a state and
a reason, soon; refused, it leaves no row. No process dies or grows beyond its bound, and the good
files come to the result they have alone. FUZZ_FILES sets how many (`make fuzz`: 1000),
FUZZ_SEED which ones.
"""

import collections
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from db.tables import InstanceState, StudyState, instances, studies
from dicom_io import scu
from tests.support import mutations
from tests.support.system import System, argv_of, running, wait_for

FILES = int(os.environ.get("FUZZ_FILES", "100"))
SEED = int(os.environ.get("FUZZ_SEED", "2026"))
GOOD_EVERY = 10
FILE_S_MAX = 5.0
# Resident: what TensorFlow needs alone, and what the largest picture in memory needs elsewhere.
BOUNDS_MB = {"inference": 1500, "other": 600}
FINAL = {InstanceState.PREDICTED, InstanceState.REJECTED, InstanceState.FAILED}


@dataclass
class Run:
    """What happened, to be held against the bounds and printed."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    seconds: list[float] = field(default_factory=list)
    peaks_mb: collections.Counter[str] = field(default_factory=collections.Counter)

    def print(self) -> None:
        ordered = sorted(self.seconds)
        median, worst = ordered[len(ordered) // 2], ordered[-1]
        print(f"\n{FILES} mutated files, seed {SEED}: median {median:.2f} s, longest {worst:.2f} s")
        for name, mb in sorted(self.peaks_mb.items()):
            print(f"  peak {mb:5} MB  {name}")
        for outcome, count in self.outcomes.most_common():
            print(f"  {count:5}  {outcome}")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("fuzz") / "home", DELIVERY="off") as (started, _pacs):
        for role in ("dicom", "inference"):
            wait_for(f"the {role} worker", lambda role=role: f"{role} worker ready" in started.log)
        yield started


@pytest.mark.timeout(180 + 2 * FILES)
def test_no_mutated_file_does_harm(system: System) -> None:
    rng = random.Random(SEED)
    run = Run()
    sources = mutations.sources()
    expected = {_store(system, mutations.copy_of(it), run)["probability"] for it in sources}
    assert len(expected) == 1  # one picture in every transfer syntax
    before = _pids(system)
    for number in range(FILES):
        kind, mutated = mutations.mutate(rng)
        row = _store(system, mutated, run)
        run.outcomes[f"{kind}: {row.get('state', 'refused')}: {_shown(row)}"] += 1
        if number % GOOD_EVERY == 0:
            good = _store(system, mutations.copy_of(sources[number // 10 % len(sources)]), run)
            assert (good["state"], good["probability"]) == ("predicted", *expected), kind
    _store(system, mutations.bomb(), run)
    wait_for("every study to end", lambda: not _unfinished_studies(system), 120)
    run.print()
    assert _pids(system) == before
    assert "starting it again" not in system.log
    for name, mb in run.peaks_mb.items():
        assert mb <= BOUNDS_MB["inference" if "inference" in name else "other"], name


def _store(system: System, item: scu.SendObject, run: Run) -> Mapping[str, Any]:
    """Send one object and wait for its outcome; an empty row when the listener refused it."""
    started = time.monotonic()
    [result] = scu.send([item], system.address, "FUZZ")
    assert result.status is not None, result.error  # an answer, and no aborted association
    row: Mapping[str, Any] = {"status": result.status}
    if result.status == 0:
        row = wait_for(
            f"the outcome of {item.sop_instance_uid}",
            lambda: _final_row(system, item.sop_instance_uid),
            FILE_S_MAX,
        )
        assert row["state"] == InstanceState.PREDICTED or row["reason"]
    run.seconds.append(time.monotonic() - started)
    assert run.seconds[-1] <= FILE_S_MAX
    for process in system.processes():
        name = _name(process)
        run.peaks_mb[name] = max(run.peaks_mb[name], process.memory_info().rss >> 20)
    return row


def _final_row(system: System, sop_instance_uid: str) -> Mapping[str, Any] | None:
    columns = (instances.c.state, instances.c.reason, instances.c.probability)
    query = sa.select(*columns).where(instances.c.sop_instance_uid == sop_instance_uid)
    with system.database.read() as tx:
        row = tx.conn.execute(query).mappings().one_or_none()
    return dict(row) if row is not None and row["state"] in FINAL else None


def _unfinished_studies(system: System) -> int:
    ended = studies.c.state.in_([StudyState.REPORTED, StudyState.FAILED])
    with system.database.read() as tx:
        query = sa.select(sa.func.count()).select_from(studies).where(~ended)
        return int(tx.conn.execute(query).scalar_one())


def _shown(row: Mapping[str, Any]) -> str:
    if "state" not in row:
        return f"0x{row['status']:04X}"
    return re.sub(r"\d+", "N", row["reason"] or "")


def _pids(system: System) -> dict[int, str]:
    return {process.pid: _name(process) for process in system.processes()}


def _name(process: psutil.Process) -> str:
    """A role's name: `inference`, `dicom`, `listen`, or the program's."""
    words = argv_of(process)
    known = [word for word in words if word in ("inference", "dicom", "listen")]
    return known[0] if known else Path(words[0]).name if words else "?"
