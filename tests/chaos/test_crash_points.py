"""kill -9 inside the listener's write path, at each point on its own: nothing acknowledged is lost.

CHAOS_CRASHES sets how many times at each point (`make crash-points`: 50).
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.tables import conflicts, instances, studies
from dicom_io import scu
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable
from tests.chaos.crash_listener import NEVER, POINTS
from tests.chaos.sender import data_set_of
from tests.support import dicom
from tests.support.outbox import part_10
from tests.support.system import wait_for
from worker import home

CRASHES = int(os.environ.get("CHAOS_CRASHES", "2"))
PER_ASSOCIATION = 3


@dataclass
class Crashing:
    """The program that forks listeners, its home, and what they acknowledged."""

    home: Path
    database: Database
    process: "subprocess.Popen[str]"
    acknowledged: dict[str, str] = field(default_factory=dict)  # UID to digest
    unanswered: list[scu.SendObject] = field(default_factory=list)

    def start(self, point: str, number: int) -> Destination:
        (self.home / "listener.port").unlink(missing_ok=True)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{point} {number}\n")
        self.process.stdin.flush()
        port = wait_for("the listener", lambda: home.published_port(self.home))
        return Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=port)

    def await_death(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline().split()[1])

    def send(self, items: list[scu.SendObject], to: Destination) -> None:
        left = list(items)
        try:
            syntax = (items[0].sop_class_uid, EXPLICIT_VR_LITTLE_ENDIAN)
            with scu.storing([syntax], to, "CRASHES") as peer:
                for item in items:
                    if peer.store(item).status != 0:
                        break
                    assert isinstance(item.payload, bytes)
                    digest = hashlib.sha256(data_set_of(item.payload)).hexdigest()
                    self.acknowledged[item.sop_instance_uid] = digest
                    left.remove(item)
        except DestinationUnavailable:
            pass
        self.unanswered = left


@pytest.fixture
def crashing(tmp_path: Path, database_url: str) -> Iterator[Crashing]:
    database = Database(database_url)
    schema.upgrade(database)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.crash_listener"],
        env=clean
        | {
            "CXR_HOME_DIR": str(tmp_path / "home"),
            "CXR_DATABASE_URL": database_url,
            "CXR_DICOM_PORT": "0",
            "CXR_LISTENER_PROCESSES": "1",
            "CXR_SPOOL_RESERVE_MB": "10",
            "CXR_LOG_LEVEL": "ERROR",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield Crashing(tmp_path / "home", database, process)
    process.kill()
    process.wait()
    database.dispose()


@pytest.mark.timeout(300 + 20 * CRASHES)
@pytest.mark.parametrize("point", POINTS)
def test_what_was_acknowledged_is_there_wherever_the_listener_was_killed(
    crashing: Crashing, point: str
) -> None:
    rng = random.Random(point)
    for _ in range(CRASHES):
        number = rng.randint(1, PER_ASSOCIATION)
        to = crashing.start(point, number)
        crashing.send(crashing.unanswered + _new(PER_ASSOCIATION - len(crashing.unanswered)), to)
        assert crashing.await_death() == -signal.SIGKILL
        assert len(crashing.unanswered) == PER_ASSOCIATION - number + 1
    to = crashing.start(NEVER, 0)
    crashing.send(crashing.unanswered, to)
    assert crashing.unanswered == []
    wait_for("every file to have its row", lambda: _files(crashing) == _rows(crashing), 30)
    rows = _rows(crashing)
    assert set(rows) == set(crashing.acknowledged)
    for uid, name in rows.items():
        content = data_set_of((crashing.home / "spool" / name).read_bytes())
        assert hashlib.sha256(content).hexdigest() == crashing.acknowledged[uid]
    _assert_counted_once(crashing)


def _new(count: int) -> list[scu.SendObject]:
    made = [dicom.chest(pixels=dicom.chest_pixels(64)) for _ in range(count)]
    return [
        scu.SendObject(
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            payload=part_10(ds),
        )
        for ds in made
    ]


def _rows(crashing: Crashing) -> dict[str, str]:
    with crashing.database.read() as tx:
        found = tx.conn.execute(sa.select(instances.c.sop_instance_uid, instances.c.spool_name))
        return {row.sop_instance_uid: row.spool_name for row in found}


def _files(crashing: Crashing) -> dict[str, str]:
    """What lies in the spool, each under the UID of its row or its own name."""
    spool = crashing.home / "spool"
    uids = {name: uid for uid, name in _rows(crashing).items()}
    names = [str(path.relative_to(spool)) for path in spool.glob("files/*/*")]
    return {uids.get(name, name): name for name in names}


def _assert_counted_once(crashing: Crashing) -> None:
    """No arrival was counted twice, whoever adopted it."""
    counts = sa.select(sa.func.sum(studies.c.image_count), sa.func.sum(studies.c.pending_count))
    with crashing.database.read() as tx:
        row = tx.conn.execute(counts).one()
        assert tuple(row) == (len(crashing.acknowledged), len(crashing.acknowledged))
        assert tx.conn.execute(sa.select(sa.func.count()).select_from(conflicts)).scalar() == 0
