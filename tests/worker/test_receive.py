"""The write path of the listener, without the network: statuses, rows and files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
import sqlalchemy.exc
from pydicom.dataset import Dataset

from db import arrivals, schema
from db.engine import Database
from db.tables import conflicts, instances, studies
from tests.support import dicom
from worker import erase
from worker.receive import (
    CANNOT_UNDERSTAND,
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    OUT_OF_RESOURCES,
    SUCCESS,
    Origin,
    Receiver,
)
from worker.spool import Spool


class Listener:
    """A receiver on a real spool and a real database, with the wake-ups it sent."""

    def __init__(self, folder: Path, reserve_mb: int = 0) -> None:
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.database_file = folder / "cxr.db"
        self.database = Database(f"sqlite:///{self.database_file}")
        schema.upgrade(self.database)
        self.woken: list[tuple[str, str]] = []
        self.receiver = Receiver(
            spool=self.spool,
            database=self.database,
            notify=lambda stage, key: self.woken.append((stage, key)),
            settle_s=30,
            max_study_age_days=100_000,
            spool_reserve_mb=reserve_mb,
        )

    def store(self, ds: Dataset, **origin: str) -> int:
        path = dicom.write(ds, self.spool.temp)
        return self.receiver.receive(path, self.origin(ds, **origin))

    def origin(self, ds: Dataset, **changes: str) -> Origin:
        values = {
            "sop_class_uid": str(ds.SOPClassUID),
            "sop_instance_uid": str(ds.SOPInstanceUID),
            "calling_ae_title": "TEST",
        }
        return Origin(**(values | changes))

    def rows(self, table: sa.Table = instances) -> list[sa.Row[tuple[object, ...]]]:
        with self.database.read() as tx:
            return list(tx.conn.execute(sa.select(table)))

    def files(self) -> int:
        return len(list(self.spool.names()))


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def test_success_means_a_file_a_row_and_a_wake_up(listener: Listener) -> None:
    ds = dicom.chest()
    assert listener.store(ds) == SUCCESS
    (row,) = listener.rows()
    assert (row.state, row.sop_instance_uid) == ("received", ds.SOPInstanceUID)
    assert listener.spool.path(row.spool_name).is_file()
    assert listener.woken == [("prepare", ds.SOPInstanceUID)]
    (study,) = listener.rows(studies)
    assert (study.accession_number, study.patient_id) == ("ACC-1", "PID-1")


def test_a_row_says_how_long_its_store_took_unless_it_was_adopted(listener: Listener) -> None:
    stored, adopted = dicom.chest(), dicom.chest()
    assert listener.store(stored) == SUCCESS
    (row,) = listener.rows()
    assert row.store_s > 0
    listener.spool.store(dicom.write(adopted, listener.spool.temp), adopted.SOPInstanceUID)
    assert listener.receiver.adopt_if_needed() == 1
    assert [it.store_s is None for it in listener.rows()] == [False, True]


def test_the_same_bytes_again_are_success_and_nothing_new(listener: Listener) -> None:
    ds = dicom.chest()
    listener.store(ds)
    before = listener.rows(studies)
    assert listener.store(ds) == SUCCESS
    assert listener.rows(studies) == before
    assert listener.files() == 1
    assert len(listener.woken) == 1


def test_a_corrected_header_replaces_the_first_and_is_analysed_anew(listener: Listener) -> None:
    ds = dicom.chest()
    listener.store(ds)
    (before,) = listener.rows(studies)
    ds.PatientID, ds.AccessionNumber = "PID-CORRECTED", "ACC-2"
    assert listener.store(ds) == SUCCESS
    (study,) = listener.rows(studies)
    assert (study.patient_id, study.accession_number) == ("PID-CORRECTED", "ACC-2")
    assert study.revision == before.revision + 1
    assert listener.files() == 1
    assert len(listener.woken) == 2
    assert listener.rows(conflicts) == []


def test_other_pixels_under_the_same_uid_are_kept_beside_and_change_nothing(
    listener: Listener,
) -> None:
    ds = dicom.chest()
    listener.store(ds)
    before = listener.rows() + listener.rows(studies)
    ds.PixelData = dicom.chest_pixels(seed=1).tobytes()
    assert listener.store(ds) == SUCCESS
    assert listener.rows() + listener.rows(studies) == before
    (conflict,) = listener.rows(conflicts)
    assert listener.spool.path(conflict.spool_name).is_file()
    assert listener.files() == 2


def test_a_presentation_state_is_success_and_rejected_as_no_image(listener: Listener) -> None:
    assert listener.store(dicom.presentation_state("1.2.3")) == SUCCESS
    (row,) = listener.rows()
    assert (row.state, row.reason) == ("rejected", "not an image")
    assert listener.woken == []


def test_what_is_not_dicom_is_quarantined_with_its_reason(listener: Listener) -> None:
    path = listener.spool.temp / "rubbish"
    path.write_bytes(b"rubbish" * 100)
    status = listener.receiver.receive(path, listener.origin(dicom.chest()))
    assert status == CANNOT_UNDERSTAND
    (row,) = listener.rows()
    assert (row.state, row.study_id) == ("failed", None)
    assert row.reason
    assert row.spool_name.startswith("quarantine/")
    assert listener.spool.path(row.spool_name).is_file()


def test_uids_that_differ_from_the_request_are_refused_as_such(listener: Listener) -> None:
    status = listener.store(dicom.chest(), sop_instance_uid="1.2.3.4")
    assert status == DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    (row,) = listener.rows()
    assert (row.sop_instance_uid, row.state) == ("1.2.3.4", "failed")


def test_below_the_reserve_a_store_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    listener = Listener(tmp_path, reserve_mb=1 << 40)
    assert listener.store(dicom.chest()) == OUT_OF_RESOURCES
    assert listener.rows() == []
    assert listener.files() == 0
    assert list(listener.spool.temp.iterdir()) == []


@contextmanager
def _no_database(listener: Listener) -> Iterator[None]:
    """Whatever opens it meanwhile fails."""
    listener.database.dispose()
    hidden = listener.database_file.rename(listener.database_file.with_suffix(".hidden"))
    listener.database_file.mkdir()
    try:
        yield
    finally:
        listener.database_file.rmdir()
        hidden.rename(listener.database_file)


def test_with_the_database_down_the_file_stays_and_is_adopted_later(listener: Listener) -> None:
    listener.receiver.adopt_if_needed()
    ds = dicom.chest()
    with _no_database(listener):
        assert listener.store(ds) == OUT_OF_RESOURCES
        assert listener.files() == 1
        assert listener.receiver.adopt_if_needed() == 0
    assert listener.receiver.adopt_if_needed() == 1
    (row,) = listener.rows()
    assert (row.sop_instance_uid, row.state) == (ds.SOPInstanceUID, "received")
    assert listener.store(ds) == SUCCESS  # the sender tries again
    assert listener.files() == 1


def test_with_the_database_down_tries_fill_no_disk_and_the_spool_is_not_looked_through(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.receiver.adopt_if_needed()
    ds = dicom.chest()
    with _no_database(listener):
        for _ in range(3):
            assert listener.store(ds) == OUT_OF_RESOURCES
            with monkeypatch.context() as watched:
                watched.setattr(listener.spool, "names", lambda: pytest.fail("looked through"))
                assert listener.receiver.adopt_if_needed() == 0
        assert listener.files() == 1
        assert list(listener.spool.temp.iterdir()) == []
    assert listener.store(ds) == SUCCESS  # before the first one is adopted
    assert listener.receiver.adopt_if_needed() == 1
    assert (listener.files(), len(listener.rows())) == (1, 1)


def test_who_adopts_stops_when_asked_and_goes_on_at_the_next_call(listener: Listener) -> None:
    for ds in (dicom.chest(), dicom.chest(), dicom.chest()):
        listener.spool.store(dicom.write(ds, listener.spool.temp), ds.SOPInstanceUID)
    assert listener.receiver.adopt_if_needed(lambda: bool(listener.rows())) == 1
    assert listener.receiver.adopt_if_needed() == 2


def test_whatever_goes_wrong_after_the_rename_the_file_is_adopted_soon(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.receiver.adopt_if_needed()
    with monkeypatch.context() as broken:
        broken.setattr(arrivals, "record_arrival", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            listener.store(dicom.chest())
    assert (listener.files(), listener.rows()) == (1, [])
    assert listener.receiver.adopt_if_needed() == 1


def test_a_file_that_cannot_be_recorded_keeps_no_other_from_its_row(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ds in (dicom.chest(), dicom.chest()):
        listener.spool.store(dicom.write(ds, listener.spool.temp), ds.SOPInstanceUID)
    plain, tried = arrivals.record_arrival, []

    def first_fails(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        return plain(*arguments, **options) if len(tried) > 1 else 1 / 0

    monkeypatch.setattr(arrivals, "record_arrival", first_fails)
    assert listener.receiver.adopt_if_needed() == 1
    assert len(listener.rows()) == 1


def test_with_a_database_that_takes_no_writes_tries_fill_no_disk(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL as a standby, say: a transaction begins all the same."""
    listener.receiver.adopt_if_needed()
    refusing = sqlalchemy.exc.OperationalError("INSERT", {}, Exception("read-only"))
    with monkeypatch.context() as standby:
        standby.setattr(arrivals, "record_arrival", Mock(side_effect=refusing))
        standby.setattr(arrivals, "try_to_write", Mock(side_effect=refusing))
        for _ in range(3):
            assert listener.store(dicom.chest()) == OUT_OF_RESOURCES
            assert listener.receiver.adopt_if_needed() == 0
    assert listener.files() == 1
    assert listener.receiver.adopt_if_needed() == 1


def test_a_file_cut_off_from_its_commit_is_adopted_at_the_next_start(tmp_path: Path) -> None:
    killed = Listener(tmp_path)
    ds = dicom.chest()
    path = dicom.write(ds, killed.spool.temp)
    killed.spool.store(path, ds.SOPInstanceUID)  # killed here, before the commit
    restarted = Listener(tmp_path)
    assert restarted.receiver.adopt_if_needed() == 1
    assert restarted.receiver.adopt_if_needed() == 0
    (row,) = restarted.rows()
    assert row.sop_instance_uid == ds.SOPInstanceUID


def test_a_kill_after_a_correction_does_not_bring_the_first_header_back(tmp_path: Path) -> None:
    killed = Listener(tmp_path)
    ds = dicom.chest()
    killed.store(ds)
    remove = killed.spool.remove
    killed.spool.remove = lambda _name: None  # type: ignore[method-assign]  # killed before that
    ds.AccessionNumber = "ACC-2"
    killed.store(ds)
    killed.spool.remove = remove  # type: ignore[method-assign]
    assert killed.files() == 2
    restarted = Listener(tmp_path)
    assert restarted.receiver.adopt_if_needed() == 0
    (study,) = restarted.rows(studies)
    assert study.accession_number == "ACC-2"
    erase.remove_files(restarted.database, restarted.spool)
    assert restarted.files() == 1


def test_what_was_refused_while_the_database_was_down_does_not_undo_a_later_correction(
    listener: Listener,
) -> None:
    ds = dicom.chest()
    path = dicom.write(ds, listener.spool.temp)
    listener.spool.store(path, ds.SOPInstanceUID)  # no row: its sender was told to try again
    listener.store(ds)
    ds.AccessionNumber = "ACC-2"
    listener.store(ds)
    assert listener.files() == 2
    listener.receiver.adopt_if_needed()
    (study,) = listener.rows(studies)
    assert study.accession_number == "ACC-2"
    assert listener.files() == 1
    assert listener.rows(conflicts) == []


def test_two_processes_do_not_adopt_the_same_files(tmp_path: Path) -> None:
    first, second = Listener(tmp_path), Listener(tmp_path)
    ds = dicom.chest()
    first.spool.store(dicom.write(ds, first.spool.temp), ds.SOPInstanceUID)
    with second.spool.sole() as alone:
        assert alone
        assert first.receiver.adopt_if_needed() == 0
    assert first.receiver.adopt_if_needed() == 1  # it has not forgotten to look


def test_what_could_be_read_takes_the_place_of_what_could_not(listener: Listener) -> None:
    ds = dicom.chest()
    for _ in range(2):  # again and again, and one file of it is kept
        rubbish = listener.spool.temp / "rubbish"
        rubbish.write_bytes(b"rubbish" * 100)
        assert listener.receiver.receive(rubbish, listener.origin(ds)) == CANNOT_UNDERSTAND
    assert len(list(listener.spool.quarantine.rglob("*.dcm"))) == 1
    assert listener.store(ds) == SUCCESS
    (row,) = listener.rows()
    assert (row.state, row.reason, row.finished_at) == ("received", None, None)
    (study,) = listener.rows(studies)
    assert (study.image_count, study.pending_count) == (1, 1)
    assert listener.woken == [("prepare", ds.SOPInstanceUID)]
    erase.remove_files(listener.database, listener.spool)
    assert list(listener.spool.quarantine.rglob("*.dcm")) == []
