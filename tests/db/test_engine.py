"""Writers of SQLite take turns, also after one was killed; errors say nothing of a patient."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.exc

from db import engine
from db.arrivals import StudyHeader
from db.engine import Database
from db.tables import studies
from tests.support import rows

ADD = sa.text("INSERT INTO counted VALUES (1)")
COUNT = sa.text("SELECT count(*) FROM counted")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'cxr.db'}"
    database = Database(url)
    with database.begin() as tx:
        tx.conn.execute(sa.text("CREATE TABLE counted (one INTEGER)"))
    database.dispose()
    return url


def add(url: str, times: int) -> None:
    database = Database(url)
    for _ in range(times):
        with database.begin() as tx:
            tx.conn.execute(ADD)


def add_and_hold(url: str, holding: Any) -> None:
    with Database(url).begin() as tx:
        tx.conn.execute(ADD)
        holding.set()
        signal.pause()


def count(url: str) -> int:
    with Database(url).read() as tx:
        return int(tx.conn.execute(COUNT).scalar_one())


def test_processes_write_in_turn(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=add, args=(url, 20)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert count(url) == 60


def test_a_killed_writer_frees_the_turn(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    holding = spawn.Event()
    writer = spawn.Process(target=add_and_hold, args=(url, holding))
    writer.start()
    assert holding.wait(60)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(60)
    add(url, 1)
    assert count(url) == 1  # what was not committed is not there


def test_a_writer_that_hangs_is_an_error_and_not_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SQLITE_TURN_WITHIN_S", 0.2)
    monkeypatch.setattr(engine, "SQLITE_BUSY_TIMEOUT_S", 0.2)
    hanging, waiting = Database(url), Database(url)
    with (
        hanging.begin(),
        pytest.raises(sa.exc.OperationalError, match="locked"),
        waiting.begin(),
    ):
        raise AssertionError("two writers at once")
    with waiting.begin() as tx:
        tx.conn.execute(ADD)
    assert count(url) == 1


def test_an_error_does_not_say_what_was_in_its_statement(database: Database) -> None:
    header = StudyHeader(study_instance_uid="1.2.3", patient_id="CANARY")
    rows.arrive(database, "1.2.3.4", header)
    again = {"study_instance_uid": "1.2.3", "patient_id": "CANARY", "state": "receiving"}
    with (
        pytest.raises(sqlalchemy.exc.IntegrityError) as raised,
        database.begin() as tx,
    ):
        times = {"received_at": tx.now, "last_arrival_at": tx.now}
        tx.conn.execute(studies.insert().values(**again, **times))
    assert "CANARY" not in str(raised.value)
