import threading
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from db import arrivals, erasure, reports
from db.arrivals import ArrivalOutcome, StudyHeader
from db.engine import Database
from db.tables import InstanceState, conflicts, erased_files, instances, studies
from tests.support import rows
from tests.support.system import wait_for


def _study(database: Database) -> sa.Row[tuple[object, ...]]:
    with database.read() as tx:
        return tx.conn.execute(sa.select(studies)).one()


def test_an_arrival_raises_the_revision_and_starts_the_settle_time(database: Database) -> None:
    assert rows.arrive(database, "1.1", settle_s=30) is ArrivalOutcome.NEW
    first = _study(database)
    assert (first.revision, first.image_count, first.pending_count) == (1, 1, 1)
    assert (first.due_at - first.last_arrival_at).total_seconds() == 30
    rows.arrive(database, "1.2", settle_s=30)
    second = _study(database)
    assert (second.revision, second.image_count, second.pending_count) == (2, 2, 2)
    assert second.due_at >= first.due_at


def test_a_duplicate_changes_nothing(database: Database) -> None:
    rows.arrive(database, "1.1")
    before = _study(database)
    assert rows.arrive(database, "1.1", spool_name="files/other.dcm") is ArrivalOutcome.KNOWN
    assert _study(database) == before


def test_an_image_that_comes_while_its_erasure_commits_is_new(database: Database) -> None:
    rows.arrive(database, "1.1")
    with ThreadPoolExecutor(1) as sender:
        with database.begin() as tx:
            erasure.erase(tx, rows.STUDY, erased_by="someone@here")
            arriving = sender.submit(rows.arrive, database, "1.1", spool_name="files/again.dcm")
            if not database.is_sqlite:  # there it waits before it has seen anything
                wait_for("it to wait for the erasure", lambda: _locks_awaited(database))
        assert arriving.result(20) is ArrivalOutcome.NEW
    assert _study(database).image_count == 1
    with database.read() as tx:
        names = ["files/1.1.dcm", "files/again.dcm"]
        assert arrivals.unknown_spool_names(tx, names) == set()
        assert erasure.files_to_remove(tx) == ["files/1.1.dcm"]


def _locks_awaited(database: Database) -> int:
    with database.read() as tx:
        query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return int(tx.conn.execute(query).scalar_one())


def test_a_known_uid_under_another_study_leaves_no_empty_study(database: Database) -> None:
    rows.arrive(database, "1.1", study="1.2.3")
    assert rows.arrive(database, "1.1", study="4.5.6") is ArrivalOutcome.KNOWN
    assert _study(database).study_instance_uid == "1.2.3"


def test_the_same_object_on_many_associations_at_once_is_new_once(database: Database) -> None:
    outcomes: list[ArrivalOutcome] = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(rows.arrive(database, "1.1", str(n))))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["known"] * 5 + ["new"]
    assert _study(database).image_count == 1


def test_an_object_that_is_no_image_is_recorded_and_not_pending(database: Database) -> None:
    state = InstanceState.REJECTED
    rows.arrive(database, "1.1", is_image=False, state=state, reason="not an image")
    study = _study(database)
    assert (study.image_count, study.pending_count) == (0, 0)


def test_an_object_without_a_study_keeps_its_row(database: Database) -> None:
    with database.begin() as tx:
        broken = rows.arrival("1.1", is_image=False, state=InstanceState.FAILED, reason="broken")
        broken = arrivals.Arrival(**{**vars(broken), "study": None})
        arrivals.record_arrival(tx, broken, settle_s=0, max_age_days=7)
    with database.read() as tx:
        row = tx.conn.execute(sa.select(instances)).one()
    assert (row.study_id, row.state, row.reason) == (None, "failed", "broken")


def test_a_corrected_header_is_analysed_anew_under_a_new_revision(database: Database) -> None:
    rows.analyse(database, "1.1")
    rows.report(database, "2.25.1", "A@host:1")
    before = _study(database)
    corrected = rows.arrival("1.1", spool_name="files/corrected.dcm")
    with database.begin() as tx:
        assert arrivals.replace_header(tx, corrected, settle_s=0)
    after = _study(database)
    assert after.revision == before.revision + 1
    assert (after.pending_count, after.analysed_count, after.image_count) == (1, 0, 1)
    rows.prepare(database, "1.1")
    rows.predict(database, "1.1")
    held, revision = rows.claim_report(database)
    with database.begin() as tx:
        snapshot = reports.snapshot(tx, held.id)
    assert snapshot.revision == revision
    assert snapshot.instances[0].spool_name == "files/corrected.dcm"
    assert snapshot.newest_report is not None
    assert snapshot.newest_report.sop_instance_uid == "2.25.1"


def test_a_corrected_header_of_what_is_not_analysed_keeps_nothing_waiting(
    database: Database,
) -> None:
    """A PACS merges patients and routes the study back, with our own pictures."""
    rows.analyse(database, "1.1")
    state = InstanceState.REJECTED
    rows.arrive(database, "1.2", is_image=False, state=state, reason="our own object")
    with database.begin() as tx:
        for number in (1, 2):
            spool_name = f"files/{number}.dcm"
            corrected = rows.arrival("1.2", is_image=False, state=state, spool_name=spool_name)
            assert arrivals.replace_header(tx, corrected, settle_s=0)
    assert (_study(database).pending_count, _study(database).analysed_count) == (0, 1)
    with database.read() as tx:
        query = sa.select(instances.c.state, instances.c.due_at, instances.c.finished_at)
        row = tx.conn.execute(query.where(instances.c.sop_instance_uid == "1.2")).one()
    assert (row.state, row.due_at, row.finished_at is None) == ("rejected", None, False)
    rows.claim_report(database)


def test_a_header_that_names_another_study_replaces_nothing(database: Database) -> None:
    rows.arrive(database, "1.1", study="1.2.3")
    elsewhere = rows.arrival("1.1", study="4.5.6")
    with database.begin() as tx:
        assert not arrivals.replace_header(tx, elsewhere, settle_s=0)
    assert _study(database).study_instance_uid == "1.2.3"


def test_a_study_is_told_by_the_newest_header_that_says_something(database: Database) -> None:
    first = StudyHeader(study_instance_uid="1.2.3")
    then = StudyHeader(
        study_instance_uid="1.2.3",
        patient_id="P1",
        issuer_of_patient_id="A",
        accession_number="N1",
        age_years=40.0,
    )
    last = StudyHeader(study_instance_uid="1.2.3", patient_id="P2")
    for number, header in enumerate((first, then, first)):
        rows.arrive(database, f"1.{number}", header)
    study = _study(database)
    assert (study.patient_id, study.accession_number, study.age_years) == ("P1", "N1", 40.0)
    assert study.issuer_of_patient_id == "A"
    rows.arrive(database, "1.9", last)
    study = _study(database)
    assert (study.patient_id, study.issuer_of_patient_id) == ("P2", None)
    assert study.accession_number == "N1"


def test_a_try_to_write_leaves_nothing(database: Database) -> None:
    for _ in range(2):
        with database.begin() as tx:
            arrivals.try_to_write(tx)
    with database.read() as tx:
        assert tx.conn.execute(sa.select(erased_files)).all() == []


def test_other_pixels_are_kept_beside_the_first(database: Database) -> None:
    rows.arrive(database, "1.1")
    with database.begin() as tx:
        arrivals.record_conflict(tx, rows.arrival("1.1", spool_name="files/second.dcm"))
    with database.read() as tx:
        names = ["files/1.1.dcm", "files/second.dcm", "files/orphan.dcm"]
        assert arrivals.unknown_spool_names(tx, names) == {"files/orphan.dcm"}
        assert tx.conn.execute(sa.select(conflicts.c.spool_name)).scalars().all() == [
            "files/second.dcm"
        ]


def test_an_upload_is_marked_and_never_leaves(database: Database) -> None:
    rows.arrive(database, "1.1", is_upload=True)
    rows.arrive(database, "1.2", study="4.5.6")
    with database.read() as tx:
        query = sa.select(studies.c.is_upload, studies.c.backlog).order_by(studies.c.id)
        found = [tuple(row) for row in tx.conn.execute(query)]
    assert found == [(True, True), (False, False)]


def test_an_instance_knows_when_it_was_finished(database: Database) -> None:
    rows.arrive(database, "1.1", state=InstanceState.REJECTED, reason="not an image")
    rows.arrive(database, "1.2")
    query = sa.select(instances.c.finished_at).order_by(instances.c.id)
    with database.read() as tx:
        rejected, waits = tx.conn.execute(query).scalars()
    assert rejected is not None
    assert waits is None
    rows.prepare(database, "1.2")
    rows.predict(database, "1.2")
    with database.read() as tx:
        assert None not in tx.conn.execute(query).scalars().all()
