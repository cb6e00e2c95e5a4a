"""The outbox against a real storage SCP that accepts, refuses, or is not there."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.tables import outbox
from tests.support import dicom, rows
from tests.support.peers import free_port
from tests.support.system import Pacs
from worker import deliver, patience
from worker.services import Services
from worker.settings import Settings
from worker.spool import Spool


class Outbox:
    """A database with reports that wait for destinations."""

    def __init__(self, folder: Path, *destinations: str) -> None:
        self.destinations = destinations
        self.database = Database(f"sqlite:///{folder / 'cxr.db'}")
        schema.upgrade(self.database)
        self.services = Services(
            settings=Settings.model_validate({"destinations": ",".join(destinations)}),
            database=self.database,
            spool=Spool(folder),
            bundle=cast(Any, None),  # delivering asks no model
            interpreter=cast(Any, None),
            notify=lambda stage, key: None,
        )

    def add_report(self, number: int) -> str:
        """A reported study; returns the report's UID. The payload is a small Part 10 file."""
        study = f"1.2.{number}"
        ds = dicom.chest(study)
        uid = str(ds.SOPInstanceUID)
        buffer = BytesIO()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = uid
        ds.save_as(buffer, enforce_file_format=True)
        rows.arrive(self.database, f"1.1.{number}", study)
        rows.prepare(self.database, f"1.1.{number}")
        rows.predict(self.database, f"1.1.{number}")
        rows.report(
            self.database,
            uid,
            *self.destinations,
            study=study,
            payload=buffer.getvalue(),
            sop_class_uid=dicom.CR,
        )
        return uid

    def states(self) -> list[tuple[str, str, int, str | None]]:
        query = sa.select(outbox.c.destination, outbox.c.state, outbox.c.attempts, outbox.c.error)
        with self.database.read() as tx:
            return [tuple(row) for row in tx.conn.execute(query.order_by(outbox.c.id))]

    def make_due(self) -> None:
        with self.database.begin() as tx:
            waiting = outbox.c.state == "pending"
            tx.conn.execute(sa.update(outbox).where(waiting).values(due_at=tx.now))


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs()
    yield made
    made.close()


def test_all_that_is_due_leaves_over_one_association(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    uids = [waiting.add_report(number) for number in range(3)]
    assert deliver.deliver(waiting.services, pacs.destination) == 3
    assert [ds.SOPInstanceUID for ds in pacs.received] == uids
    assert pacs.associations == 1
    assert {state for _, state, _, _ in waiting.states()} == {"sent"}
    assert deliver.deliver(waiting.services, pacs.destination) == 0


def test_a_destination_that_is_down_delays_no_other_and_is_tried_again(
    pacs: Pacs, tmp_path: Path
) -> None:
    dead = f"DEAD@127.0.0.1:{free_port()}"
    waiting = Outbox(tmp_path, dead, pacs.destination)
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, dead) == 0
    assert deliver.deliver(waiting.services, pacs.destination) == 1
    (of_dead, of_pacs) = waiting.states()
    assert (of_dead[1], of_pacs[1]) == ("pending", "sent")
    assert of_dead[3] is not None
    assert "cannot connect" in of_dead[3]
    assert deliver.deliver(waiting.services, dead) == 0  # not due before its wait is over
    assert waiting.states()[0][2] == 1
    waiting.make_due()
    deliver.deliver(waiting.services, dead)
    assert waiting.states()[0][2] == 2


def test_a_refused_object_is_tried_some_times_and_then_given_up(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    pacs.status = 0xA900
    for _ in range(patience.REFUSALS_MAX):
        assert waiting.states()[0][1] == "pending"
        waiting.make_due()
        deliver.deliver(waiting.services, pacs.destination)
    ((_, state, attempts, error),) = waiting.states()
    assert (state, attempts) == ("failed", patience.REFUSALS_MAX)
    assert error == "refused with status 0xA900"


def test_a_destination_that_is_no_longer_listed_keeps_its_reports(tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, "GONE@127.0.0.1:104")
    waiting.add_report(1)
    unlisted = Outbox(tmp_path / "other")
    services = Services(**{**vars(unlisted.services), "database": waiting.database})
    deliver.deliver(services, "GONE@127.0.0.1:104")
    ((_, state, _, error),) = waiting.states()
    assert (state, error) == ("pending", "not among the destinations")


def test_waits_double_up_to_an_hour() -> None:
    waits = [patience.backoff_s(attempts) for attempts in range(1, 30)]
    assert 3.75 <= waits[0] <= 6.25
    assert 7.5 <= waits[1] <= 12.5
    assert all(wait <= 4500 for wait in waits)
    assert min(waits[12:]) >= 2700
