"""An image that kills its worker each time: tried so often, then failed with the reason."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.tables import instances
from tests.support import rows
from worker import drain, prepare
from worker.services import Services
from worker.settings import Settings
from worker.spool import Spool


class Killed(BaseException):
    """What `except Exception` does not catch, as kill -9 is not caught."""


def test_what_kills_its_worker_is_given_up_and_the_rest_goes_on(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta()
    database = Database(database_url, clock=lambda _conn: datetime.now(UTC) + ahead)
    schema.upgrade(database)
    woken: list[tuple[str, str]] = []
    services = Services(
        settings=Settings.model_validate({}),
        database=database,
        spool=Spool(tmp_path),
        bundle=cast(Any, None),
        interpreter=cast(Any, None),
        notify=lambda stage, key: woken.append((stage, key)),
    )
    rows.arrive(database, "1.2.3.4", "1.2.3")
    rows.arrive(database, "1.2.3.5", "1.2.9")
    died = 0

    def read(path: Path) -> None:
        if "1.2.3.4" in path.name:
            raise Killed
        raise prepare.DicomError("unreadable")

    monkeypatch.setattr(prepare, "read_dataset", read)
    for _ in range(drain.ATTEMPTS_MAX + 2):
        try:
            prepare.prepare(services, "1.2.3.4")
        except Killed:
            died += 1
        ahead += timedelta(seconds=drain.LEASE_S + 1)
    assert died == drain.ATTEMPTS_MAX
    with database.read() as tx:
        found = {row.sop_instance_uid: row for row in tx.conn.execute(sa.select(instances))}
    assert found["1.2.3.4"].state == "failed"
    assert found["1.2.3.4"].reason == (
        "given up after 3 attempts; the last: the worker ended without a word"
    )
    assert found["1.2.3.5"].reason == "unreadable"
    assert ("report", "1.2.3") in woken  # its study goes on to its report without it
    database.dispose()
