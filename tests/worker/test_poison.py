"""An image that kills its worker each time: tried so often, then failed with the reason."""

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

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


class Site:
    """What a stage needs, and a clock that a test moves."""

    def __init__(self, folder: Path, url: str) -> None:
        self.ahead = timedelta()
        self.database = Database(url, clock=lambda _conn: datetime.now(UTC) + self.ahead)
        schema.upgrade(self.database)
        self.woken: list[tuple[str, str]] = []
        self.services = Services(
            settings=Settings.model_validate({}),
            database=self.database,
            spool=Spool(folder),
            bundle=cast(Any, None),
            interpreter=cast(Any, None),
            notify=lambda stage, key: self.woken.append((stage, key)),
        )

    def instances(self) -> dict[str, Any]:
        with self.database.read() as tx:
            return {row.sop_instance_uid: row for row in tx.conn.execute(sa.select(instances))}


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    made = Site(tmp_path, database_url)
    yield made
    made.database.dispose()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        sa.exc.OperationalError("INSERT", {}, Exception("could not extend file")),
    ],
    ids=lambda it: type(it).__name__,
)
def test_trouble_of_disk_or_database_is_waited_for_and_is_no_poison(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    rows.arrive(site.database, "1.2.3.4", "1.2.3")
    monkeypatch.setattr(prepare, "read_dataset", Mock(side_effect=error))
    for _ in range(4 * drain.ATTEMPTS_MAX):
        assert prepare.prepare(site.services, "1.2.3.4") == 0
        site.ahead += timedelta(seconds=drain.TROUBLE_RETRY_AFTER_S + 1)
    row = site.instances()["1.2.3.4"]
    assert (row.state, row.attempts) == ("received", 0)
    assert type(error).__name__ in row.error
    site.ahead += drain.TROUBLE_MAX
    for _ in range(drain.ATTEMPTS_MAX + 1):  # by now it may be this file alone
        prepare.prepare(site.services, "1.2.3.4")
        site.ahead += timedelta(seconds=drain.TROUBLE_RETRY_AFTER_S + 1)
    assert site.instances()["1.2.3.4"].state == "failed"


def test_what_kills_its_worker_is_given_up_and_the_rest_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = site.database
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
            prepare.prepare(site.services, "1.2.3.4")
        except Killed:
            died += 1
        site.ahead += timedelta(seconds=drain.LEASE_S + 1)
    assert died == drain.ATTEMPTS_MAX
    found = site.instances()
    assert found["1.2.3.4"].state == "failed"
    assert found["1.2.3.4"].reason == (
        "given up after 3 attempts; the last: the worker ended without a word"
    )
    assert found["1.2.3.5"].reason == "unreadable"
    assert ("report", "1.2.3") in site.woken  # its study goes on to its report without it
