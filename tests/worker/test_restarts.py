"""Killed at any transaction between an image's prediction and its report's commitment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import generate_uid

from db import schema
from db.engine import Database, Transaction
from db.tables import destinations, objects, outbox, studies
from dicom_io.commitment import CommitmentReport
from model.bundle import read_bundle, shipped_bundle_path
from tests.support import dicom, rows, stored
from tests.support.system import Pacs, lone_pacs
from worker import commit, deliver, report
from worker.destinations import parse
from worker.receive import SUCCESS
from worker.services import Services, make_interpreter
from worker.settings import Settings
from worker.spool import Spool

KILLS = [(number, moment) for number in range(1, 25) for moment in ("before", "after")]


class Killed(BaseException):
    """What `except Exception` does not catch, as kill -9 is not caught."""


class KillingDatabase(Database):
    """Ends one transaction, counted from one, just before or just after its commit."""

    kill: tuple[int, str] | None = None
    transactions = 0

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        self.transactions += 1
        number = self.transactions
        with super().begin() as tx:
            yield tx
            if self.kill == (number, "before"):
                raise Killed
        if self.kill == (number, "after"):
            raise Killed


class Story:
    """One study, its two images, and the PACS that gets and commits its reports."""

    def __init__(self, folder: Path, pacs: Pacs) -> None:
        self.pacs = pacs
        self.study = str(generate_uid())
        url = f"sqlite:///{folder / 'cxr.db'}"
        self.calm = Database(url)
        schema.upgrade(self.calm)
        self.database = KillingDatabase(url)
        recipient = replace(parse(pacs.destination), storage_commitment=True)
        settings = Settings.model_validate({"destinations": [recipient]})
        bundle = read_bundle(shipped_bundle_path())
        self.services = Services(
            settings=settings,
            database=self.database,
            spool=Spool(folder / "spool"),
            bundle=bundle,
            interpreter=make_interpreter(settings, bundle),
            notify=lambda stage, key: None,
        )
        self.services.spool.create()

    def arrive(self, **changes: object) -> None:
        """An image comes and is predicted."""
        ds = dicom.chest(self.study, **changes)
        assert stored.store(ds, self.services.spool, self.calm) == SUCCESS
        rows.prepare(self.calm, ds.SOPInstanceUID)
        bundle = self.services.bundle
        model = {"model_name": bundle.name, "model_version": bundle.version}
        rows.predict(self.calm, ds.SOPInstanceUID, **model)

    def run(self) -> None:
        """Report, deliver and commit what is due; after a kill, once more."""
        name = self.pacs.destination
        steps: list[Callable[[], object]] = [
            lambda: report.report(self.services, None),
            lambda: deliver.deliver(self.services, name),
            lambda: commit.commit(self.services, name),
            self._answer,
        ]
        try:
            for step in steps:
                step()
        except Killed:
            self._let_leases_end()
            for step in steps:
                step()

    def _answer(self) -> None:
        """All that was asked is answered, in the order in which it was asked."""
        for request in self.pacs.commitments:
            uids = {str(it.ReferencedSOPInstanceUID) for it in request.ReferencedSOPSequence}
            commit.record(
                self.database,
                CommitmentReport(
                    transaction_uid=str(request.TransactionUID), committed=frozenset(uids)
                ),
            )

    def _let_leases_end(self) -> None:
        with self.calm.begin() as tx:
            for table in (studies, outbox):
                tx.conn.execute(
                    sa.update(table).where(table.c.due_at.is_not(None)).values(due_at=tx.now)
                )
            tx.conn.execute(sa.update(destinations).values(busy_until=None))


pacs = pytest.fixture(scope="module")(lone_pacs)


def _tell(folder: Path, pacs: Pacs, kill: tuple[int, str] | None) -> int:
    """The story with one kill; returns how many transactions it took."""
    pacs.commitments.clear()
    story = Story(folder, pacs)
    story.database.kill = kill
    story.arrive()
    story.run()
    story.arrive(ViewPosition="AP")
    story.run()
    first, second = pacs.reports(story.study)
    everything = [ds for ds in pacs.received if ds.StudyInstanceUID == story.study]
    for ds in everything:  # whatever was sent twice was the same
        assert ds == (first if ds.SOPInstanceUID == first.SOPInstanceUID else second)
    assert "PredecessorDocumentsSequence" not in first
    (series,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    named = [it.ReferencedSOPInstanceUID for it in series.ReferencedSOPSequence]
    assert named == [first.SOPInstanceUID]
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    with story.calm.read() as tx:
        made = list(
            tx.conn.execute(sa.select(objects.c.sop_instance_uid).order_by(objects.c.id)).scalars()
        )
        states = list(tx.conn.execute(sa.select(outbox.c.state)).scalars())
    assert made == [first.SOPInstanceUID, second.SOPInstanceUID]
    assert states == ["committed", "committed"]
    story.calm.dispose()
    story.database.dispose()
    return story.database.transactions


def test_without_a_kill_the_story_has_as_many_transactions_as_are_killed(
    pacs: Pacs, tmp_path: Path
) -> None:
    assert _tell(tmp_path, pacs, None) <= KILLS[-1][0]


@pytest.mark.parametrize("kill", KILLS[2::12], ids=str)
def test_a_kill_changes_nothing_of_what_the_pacs_gets(
    kill: tuple[int, str], pacs: Pacs, tmp_path: Path
) -> None:
    _tell(tmp_path, pacs, kill)


@pytest.mark.long
@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_no_kill_changes_anything_of_what_the_pacs_gets(
    kill: tuple[int, str], pacs: Pacs, tmp_path: Path
) -> None:
    _tell(tmp_path, pacs, kill)
