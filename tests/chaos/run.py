"""One run of chaos: a site, a sender, a storm, and the verdict once all is quiet again."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db import arrivals
from db.tables import (
    DeliveryState,
    InstanceState,
    StudyState,
    erased_files,
    instances,
    outbox,
    studies,
)
from tests.chaos import faults
from tests.chaos.sender import Sender
from tests.chaos.site import ROOT, Site
from tests.chaos.verdict import Verdict, judge
from tests.support.system import wait_for
from worker.spool import TEMP_FILE_AGE_MAX_S

QUIET_WITHIN_S = 900.0  # since something last moved
JUMP_S = 5400.0  # beyond the longest wait between two tries
SETTINGS: Mapping[str, object] = {"STUDY_SETTLE_S": 2}


@dataclass(kw_only=True)
class Result:
    database: str
    seed: int
    studies: int
    faults: int
    seconds: float = 0.0
    struck: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def clean(self) -> bool:
        return self.verdict.clean and not self.errors

    def text(self) -> str:
        found = self.verdict
        lines = [
            f"{self.database}, seed {self.seed}: {self.studies} studies, "
            f"{sum(self.struck.values())} faults, {self.seconds:.0f} s",
            *(f"  {count:6}  {name}" for name, count in sorted(self.struck.items())),
            *(f"  not had: {name} ({why})" for name, why in self.skipped.items()),
            *(f"  {count:6}  {name}" for name, count in (self.counts | found.counts).items()),
            "  started " + ", ".join(f"{name} {n}" for name, n in self.restarts.items()),
        ]
        for name in ("lost", "duplicated", "orphaned", "wrong"):
            problems = getattr(found, name)
            lines.append(f"  {len(problems)} {name}")
            lines += [f"    {it}" for it in problems[:20]]
        lines += [f"  ERROR {it}" for it in self.errors]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))


def run(
    folder: Path, *, database: str, studies: int, faults_count: int, over_s: float, seed: int
) -> Result:
    """Send `studies` over `over_s` seconds while faults strike; then mend, wait and judge."""
    result = Result(database=database, seed=seed, studies=studies, faults=faults_count)
    started = time.monotonic()
    with Site(folder, database, bundle=tiny_bundle(), settings=SETTINGS) as site:
        result.skipped = faults.skipped(site)
        sender = Sender(
            site.address, folder / "ledger.jsonl", studies=studies, over_s=over_s, seed=seed
        )
        schedule = faults.draw(site, count=faults_count, over_s=over_s, seed=seed)
        storm = faults.Storm(site, schedule)
        sender.start()
        storm.start()
        try:
            wait_for("the last fault", lambda: storm.over, over_s * 3 + 120)
            storm.mend()
            site.jump(JUMP_S)
            _wait(site, lambda: sender.done, lambda: f"{sender.acknowledged} acknowledged")
        finally:
            storm.mend()
            sender.close()
        _come_to_rest(site, result)
        result.counts |= {"objects sent, tries included": sender.sent}
        result.struck, result.errors = dict(storm.struck), storm.errors
        result.restarts = {name: it.starts for name, it in site.programs.items()}
        result.verdict = judge(site, folder / "ledger.jsonl")
    result.seconds = time.monotonic() - started
    return result


def tiny_bundle() -> Path:
    """Made once, by a process of its own: this one loads no TensorFlow."""
    folder = ROOT / "var" / "chaos" / "tiny-1.2.3"
    if not (folder / "manifest.json").is_file():
        argv = [sys.executable, "-m", "tests.chaos.tiny_bundle", str(folder)]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    return folder


def free_folder(parent: Path) -> Path:
    return parent / f"{time.strftime('%H%M%S')}-{secrets.token_hex(2)}"


def _come_to_rest(site: Site, result: Result) -> None:
    """Wait until nothing waits; what was given up is retried once, as an operator would."""
    _wait(site, lambda: not _waiting(site), lambda: str(_waiting(site)))
    if given_up := _given_up(site):
        result.counts |= {f"given up, {name}": count for name, count in given_up.items()}
        site.command("retry", "--all")
        _wait(site, lambda: not _waiting(site), lambda: str(_waiting(site)))
    # What was refused last is kept too: each process of the listener looks every ten seconds.
    wait_for("every stored file to have its row", lambda: not _without_a_row(site), 60)
    old = time.time() - TEMP_FILE_AGE_MAX_S - 60  # what a killed listener had begun to receive
    for path in (site.disk / "spool" / "tmp").iterdir():
        os.utime(path, (old, old))
    wait_for("the temp folder to be swept", lambda: not _temp_files(site), 60)


def _without_a_row(site: Site) -> list[str]:
    spool = site.disk / "spool"
    names = [str(path.relative_to(spool)) for path in spool.glob("files/*/*.dcm")]
    with site.database.read() as tx:
        parts = (names[start : start + 500] for start in range(0, len(names), 500))
        return [name for part in parts for name in arrivals.unknown_spool_names(tx, part)]


def _temp_files(site: Site) -> list[Path]:
    return list((site.disk / "spool" / "tmp").iterdir())


def _wait(site: Site, done: Any, state: Any) -> None:
    """Wait for `done` as long as anything moves; waits between tries are cut short by the clock."""
    said, moved_at, told_at = "", time.monotonic(), 0.0
    while not done():
        now = time.monotonic()
        if (text := str(state())) != said:
            said, moved_at = text, now
        if now - told_at > 15:
            print(f"  {time.strftime('%X')}  {said}", flush=True)
            told_at = now
        if now - moved_at > QUIET_WITHIN_S:
            raise AssertionError(f"nothing moves any more: {said}")
        if now - moved_at > 12:
            site.jump(JUMP_S)
            time.sleep(5)
        time.sleep(0.5)


def _waiting(site: Site) -> dict[str, int]:
    queries = {
        "images": sa.select(sa.func.count()).select_from(instances).where(
            instances.c.state.in_([InstanceState.RECEIVED, InstanceState.PREPARED])),
        "studies": sa.select(sa.func.count()).select_from(studies).where(
            studies.c.due_at.is_not(None)),
        "deliveries": sa.select(sa.func.count()).select_from(outbox).where(
            outbox.c.state == DeliveryState.PENDING),
        "files to remove": sa.select(sa.func.count()).select_from(erased_files),
    }  # fmt: skip
    return _counted(site, queries)


def _given_up(site: Site) -> dict[str, int]:
    queries = {
        "images": sa.select(sa.func.count()).select_from(instances).where(
            instances.c.state == InstanceState.FAILED),
        "reports": sa.select(sa.func.count()).select_from(studies).where(
            studies.c.state == StudyState.FAILED),
        "deliveries": sa.select(sa.func.count()).select_from(outbox).where(
            outbox.c.state == DeliveryState.FAILED),
    }  # fmt: skip
    return _counted(site, queries)


def _counted(site: Site, queries: Mapping[str, sa.Select[tuple[int]]]) -> dict[str, int]:
    with site.database.read() as tx:
        counts = {name: tx.conn.execute(query).scalar_one() for name, query in queries.items()}
    return {name: count for name, count in counts.items() if count}
