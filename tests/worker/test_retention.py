"""Retention: what is delivered loses its pixel data, what is not keeps it; whoever is killed."""

import errno
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from db import erasure, restarts, schema
from db.engine import Database, Transaction
from db.tables import DeliveryState, conflicts, instances, outbox, studies
from tests.support import dicom, rows, stored
from worker import erase, receive, retention
from worker.receive import SUCCESS
from worker.spool import DiskUsage, Spool

DAYS = 30


class Site:
    """A spool and a database whose clock a test moves."""

    def __init__(self, folder: Path, url: str) -> None:
        self.ahead = timedelta()
        plain = Database(url)
        schema.upgrade(plain)
        plain.dispose()
        self.database = Database(url, clock=self._clock)
        self.spool = Spool(folder / "spool")
        self.spool.create()

    def _clock(self, _conn: sa.Connection) -> datetime:
        return datetime.now(UTC) + self.ahead

    def store(self, ds: Dataset) -> None:
        assert stored.store(ds, self.spool, self.database) == SUCCESS

    def report(self, ds: Dataset, *destinations: str) -> None:
        """Bring a study with one new image to its report."""
        rows.prepare(self.database, ds.SOPInstanceUID)
        rows.predict(self.database, ds.SOPInstanceUID)
        rows.report(self.database, generate_uid(), *destinations, study=ds.StudyInstanceUID)

    def expired(self) -> Dataset:
        """A study that is reported, and kept for long enough."""
        ds = dicom.chest()
        self.store(ds)
        self.report(ds)
        self.let_pass(DAYS + 1)
        return ds

    def let_pass(self, days: float) -> None:
        self.ahead += timedelta(days=days)

    def forget(self, ds: Dataset) -> None:
        """Erase a study's rows, as `cxr-worker forget` does before it removes the files."""
        with self.database.begin() as tx:
            erasure.erase(tx, ds.StudyInstanceUID, erased_by="test")

    def conflicts(self) -> int:
        with self.database.read() as tx:
            return len(tx.conn.execute(sa.select(conflicts)).all())

    def purge(self) -> int:
        return retention.purge(self.database, self.spool, DAYS)

    def holds_pixels(self, ds: Dataset) -> bool:
        query = sa.select(instances.c.spool_name).where(
            instances.c.sop_instance_uid == ds.SOPInstanceUID
        )
        with self.database.read() as tx:
            name = tx.conn.execute(query).scalar_one()
        return "PixelData" in dcmread(self.spool.path(name))

    def row(self, ds: Dataset) -> sa.Row[tuple[object, ...]]:
        query = sa.select(studies).where(studies.c.study_instance_uid == ds.StudyInstanceUID)
        with self.database.read() as tx:
            return tx.conn.execute(query).one()


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return Site(tmp_path, database_url)


def _set_deliveries(tx: Transaction, state: DeliveryState, *, due: bool) -> None:
    values = {"state": state, "due_at": tx.now if due else None}
    tx.conn.execute(sa.update(outbox).values(values))


def test_pixels_leave_after_their_time_and_the_header_stays(site: Site) -> None:
    ds = dicom.chest()
    site.store(ds)
    site.report(ds)
    site.let_pass(DAYS - 1)
    assert site.purge() == 0
    site.let_pass(2)
    assert site.purge() == 1
    assert not site.holds_pixels(ds)
    (name,) = site.spool.names()
    left = dcmread(site.spool.path(name))
    assert left.PatientID == ds.PatientID
    assert left.ViewPosition == ds.ViewPosition
    assert site.row(ds).purged_at is not None
    assert list(site.spool.temp.iterdir()) == []
    assert site.purge() == 0


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (DeliveryState.PENDING, True),
        (DeliveryState.FAILED, False),
        (DeliveryState.SENT, True),  # not committed yet
    ],
)
def test_what_is_not_delivered_is_kept_for_as_long_as_that_takes(
    site: Site, state: DeliveryState, due: bool
) -> None:
    ds = dicom.chest()
    site.store(ds)
    site.report(ds, "PACS@h:104")
    with site.database.begin() as tx:
        _set_deliveries(tx, state, due=due)
    site.let_pass(10 * DAYS)
    assert site.purge() == 0
    assert site.holds_pixels(ds)
    with site.database.begin() as tx:
        _set_deliveries(tx, DeliveryState.COMMITTED, due=False)
    assert site.purge() == 1


def test_what_is_not_reported_is_kept(site: Site) -> None:
    ds = dicom.chest()
    site.store(ds)
    site.let_pass(10 * DAYS)
    assert site.purge() == 0
    rows.prepare(site.database, ds.SOPInstanceUID)
    rows.predict(site.database, ds.SOPInstanceUID)
    assert site.purge() == 0
    assert site.holds_pixels(ds)


def test_whoever_is_killed_before_the_files_are_smaller_is_followed_by_one_who_does_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = site.expired()
    with monkeypatch.context() as killed:
        killed.setattr(retention, "_drop_pixels", _die)
        with pytest.raises(KeyboardInterrupt):
            site.purge()
    assert site.holds_pixels(ds)
    assert site.purge() == 1
    assert not site.holds_pixels(ds)


def _die(_spool: Spool, _name: str) -> None:
    raise KeyboardInterrupt


def test_what_has_no_pixels_any_more_is_not_analysed_again(site: Site) -> None:
    ds = site.expired()
    site.purge()
    with site.database.begin() as tx:
        study = str(ds.StudyInstanceUID)
        assert restarts.stored_studies(tx, limit=10) == []
        assert restarts.reprocess(tx, study, max_age_days=7, deliver_anyway=False) == 0


def test_a_late_image_is_purged_in_its_turn(site: Site) -> None:
    ds = site.expired()
    site.purge()
    late = dicom.chest(ds.StudyInstanceUID, pixels=dicom.chest_pixels(seed=1))
    site.store(late)
    assert site.row(ds).purged_at is None
    site.report(late)
    assert site.purge() == 0
    site.let_pass(DAYS + 1)
    assert site.purge() == 1
    assert not site.holds_pixels(late)


def test_an_image_that_comes_again_without_its_first_pixels_is_taken_as_new(site: Site) -> None:
    ds = site.expired()
    site.purge()
    site.store(ds)
    row = site.row(ds)
    assert (row.image_count, row.pending_count, row.purged_at) == (1, 1, None)
    assert site.holds_pixels(ds)
    assert site.conflicts() == 0


def test_a_file_that_is_erased_while_its_pixels_are_taken_does_not_come_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = site.expired()
    has_looked, may_go_on = threading.Event(), threading.Event()
    is_file = Path.is_file

    def look_and_wait(path: Path) -> bool:
        found = is_file(path)
        if threading.current_thread() is purging:
            has_looked.set()
            assert may_go_on.wait(30)
        return found

    monkeypatch.setattr(Path, "is_file", look_and_wait)
    purging = threading.Thread(target=site.purge)
    purging.start()
    assert has_looked.wait(30)  # the file is there, and is about to be replaced
    site.forget(ds)
    assert not erase.remove_files(site.database, site.spool)
    may_go_on.set()
    purging.join(30)
    assert erase.remove_files(site.database, site.spool, wait_s=10)
    assert list(site.spool.names()) == []


def _meanwhile(
    monkeypatch: pytest.MonkeyPatch, name: str, what: Callable[[], object], *, before: bool
) -> None:
    """Let something happen once, before or after the receiver's next call of this."""
    target = {"compare": receive.same, "stored_file": receive.arrivals}[name]
    real, calls = getattr(target, name), []

    def call(*arguments: object, **options: object) -> object:
        calls.append(name)
        if before and len(calls) == 1:
            what()
        found = real(*arguments, **options)
        if not before and len(calls) == 1:
            what()
        return found

    monkeypatch.setattr(target, name, call)


@pytest.mark.parametrize("before", [True, False])
def test_an_image_whose_pixels_go_while_it_comes_again_is_taken_as_new(
    site: Site, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    ds = site.expired()
    _meanwhile(monkeypatch, "compare", site.purge, before=before)
    ds.PatientName = "Corrected^Name"
    site.store(ds)
    assert site.conflicts() == 0
    assert (site.row(ds).pending_count, site.row(ds).purged_at) == (1, None)
    assert site.holds_pixels(ds)


@pytest.mark.parametrize(
    ("call", "before"), [("stored_file", True), ("compare", True), ("compare", False)]
)
def test_an_image_that_comes_again_while_its_study_is_erased_is_new(
    site: Site, monkeypatch: pytest.MonkeyPatch, call: str, before: bool
) -> None:
    ds = dicom.chest()
    site.store(ds)
    _meanwhile(monkeypatch, call, lambda: site.forget(ds), before=before)
    ds.PatientName = "Corrected^Name"
    site.store(ds)
    erase.remove_files(site.database, site.spool)
    assert site.row(ds).image_count == 1
    assert site.holds_pixels(ds)
    assert len(list(site.spool.names())) == 1


class Disk:
    """The figures of a file system that holds these spool's files and nothing else."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self._site = site
        self.size = 10**9
        monkeypatch.setattr(site.spool, "disk_usage", self.usage)

    @property
    def used(self) -> int:
        return sum(self._site.spool.path(name).stat().st_size for name in self._site.spool.names())

    def usage(self) -> DiskUsage:
        return DiskUsage(used=self.used, free=self.size - self.used)


def _delivered(site: Site, count: int) -> list[Dataset]:
    made = [dicom.chest(pixels=dicom.chest_pixels(seed=number)) for number in range(count)]
    for ds in made:
        site.store(ds)
        site.report(ds)
        site.let_pass(0.01)
    return made


def test_a_disk_that_is_too_full_loses_the_oldest_and_no_more_than_needed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(site, monkeypatch)
    made = _delivered(site, 5)
    each = disk.used // 5
    assert retention.make_room(site.database, site.spool, 90) == 0  # there is room
    disk.size = 5 * each  # full: down to 60 % two of five have to go
    assert retention.make_room(site.database, site.spool, 60) in (2, 3)  # headers stay
    assert disk.used <= 0.6 * disk.size
    kept = [site.holds_pixels(ds) for ds in made]
    assert kept == sorted(kept)  # the oldest went
    assert disk.used + each > 0.6 * disk.size  # and no more than needed
    assert retention.make_room(site.database, site.spool, 60) == 0


def test_however_full_the_disk_is_what_is_not_delivered_is_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(site, monkeypatch)
    waits, unreported = dicom.chest(), dicom.chest()
    site.store(waits)
    site.report(waits, "PACS@h:104")
    (gone,) = _delivered(site, 1)
    site.store(unreported)
    disk.size = disk.used
    assert retention.make_room(site.database, site.spool, 1) == 1
    assert [site.holds_pixels(ds) for ds in (waits, gone, unreported)] == [True, False, True]


def test_a_disk_without_room_for_the_smaller_files_is_looked_at_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(site, monkeypatch)
    made = _delivered(site, 3)
    disk.size = disk.used
    with monkeypatch.context() as full:
        no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full.setattr(retention, "write_header_only", Mock(side_effect=no_room))
        assert retention.make_room(site.database, site.spool, 1) == 0
    assert [site.row(ds).purged_at for ds in made] == [None] * 3
    assert retention.make_room(site.database, site.spool, 1) == 3
    assert not any(site.holds_pixels(ds) for ds in made)


def test_making_room_ends_after_a_while_and_goes_on_at_the_next_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(site, monkeypatch)
    _delivered(site, 5)
    disk.size = disk.used
    monkeypatch.setattr(retention, "STUDIES_AT_ONCE", 2)
    monkeypatch.setattr(retention, "MAKE_ROOM_WITHIN_S", -1.0)
    looks = [retention.make_room(site.database, site.spool, 1) for _ in range(4)]
    assert looks == [2, 2, 1, 0]
