from datetime import date

import sqlalchemy as sa

from db import queries, reports, restarts
from db.arrivals import StudyHeader
from db.claims import INFER, PREPARE, claim
from db.engine import Database
from db.outcomes import record_dismissal
from db.tables import InstanceState, outbox, studies
from tests.support import rows


def _reported(database: Database, study: str = rows.STUDY) -> None:
    rows.analyse(database, f"{study}.1", study)
    rows.report(database, f"2.25.{study}", "A@h:1", "B@h:2", study=study)


def _dismiss(database: Database, uid: str, state: InstanceState) -> None:
    with database.begin() as tx:
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60, first=uid)
        record_dismissal(tx, PREPARE, held, state, "broken")


def _study(database: Database, study: str = rows.STUDY) -> dict[str, object]:
    with database.read() as tx:
        query = sa.select(studies).where(studies.c.study_instance_uid == study)
        return dict(tx.conn.execute(query).mappings().one())


def _fail_deliveries(database: Database) -> None:
    with database.begin() as tx:
        tx.conn.execute(
            sa.update(outbox).values(state="failed", due_at=None, attempts=8, refusals=8)
        )


def test_failed_deliveries_are_tried_again_by_study_and_destination(database: Database) -> None:
    for study in ("1", "2"):
        _reported(database, study)
    _fail_deliveries(database)
    with database.begin() as tx:
        assert restarts.retry_deliveries(tx, study_instance_uid="1", destination="A@h:1") == 1
        assert restarts.retry_deliveries(tx, destination="A@h:1") == 1
        assert restarts.retry_deliveries(tx, destination="A@h:1") == 0  # due already
        assert restarts.retry_deliveries(tx, study_instance_uid="1") == 1
        assert restarts.retry_deliveries(tx) == 1
        assert restarts.retry_deliveries(tx) == 0
    with database.read() as tx:
        (row, *_) = queries.find_deliveries(tx, "1")
    assert (row["state"], row["attempts"], row["error"]) == ("pending", 1, None)


def test_a_failed_image_is_prepared_again_and_the_study_waits_for_it(database: Database) -> None:
    rows.arrive(database, "1.1")
    _dismiss(database, "1.1", InstanceState.FAILED)
    rows.report(database, "2.25.1")
    before = _study(database)
    with database.begin() as tx:
        assert restarts.retry_instances(tx, study_instance_uid="9.9") == 0
        assert restarts.retry_instances(tx, study_instance_uid=rows.STUDY) == 1
        assert restarts.retry_instances(tx) == 0
    after = _study(database)
    assert (after["pending_count"], after["state"]) == (1, "analysing")
    assert after["revision"] == before["revision"] + 1  # type: ignore[operator]
    rows.prepare(database, "1.1")
    rows.predict(database, "1.1")
    assert (_study(database)["pending_count"], _study(database)["analysed_count"]) == (0, 1)


def test_what_has_no_study_is_not_retried(database: Database) -> None:
    rows.arrive(database, "1.1", study=None, state=InstanceState.FAILED, is_image=False)
    with database.begin() as tx:
        assert restarts.retry_instances(tx) == 0


def test_a_failed_report_is_tried_again(database: Database) -> None:
    _reported(database)
    with database.begin() as tx:
        tx.conn.execute(sa.update(studies).values(state="failed", due_at=None, attempts=4))
        assert restarts.retry_reports(tx, study_instance_uid="9.9") == 0
        assert restarts.retry_reports(tx) == 1
    held, revision = rows.claim_report(database)
    assert (held.attempts, revision) == (1, _study(database)["revision"])


def test_reprocessing_comes_after_live_work(database: Database) -> None:
    _reported(database)
    with database.begin() as tx:
        (found,) = restarts.stored_studies(tx, limit=10)
        assert restarts.reprocess(
            tx, found.study_instance_uid, max_age_days=7, deliver_anyway=False
        )
    rows.arrive(database, "9.1", "9")
    with database.begin() as tx:
        claims = claim(tx, PREPARE, limit=2, lease_s=60)
        ids = tx.conn.execute(sa.text("SELECT id FROM instances ORDER BY id")).scalars().all()
    assert [held.id for held in claims] == [ids[1], ids[0]]
    assert _study(database)["pending_count"] == 1
    assert _study(database)["analysed_count"] == 0


def test_only_studies_whose_analysis_is_over_are_reprocessed(database: Database) -> None:
    for study in ("1", "2"):
        _reported(database, study)
    rows.arrive(database, "3.1", "3")
    with database.read() as tx:
        every = restarts.stored_studies(tx, limit=10)
        named = restarts.stored_studies(tx, study_instance_uids=["2", "3"], limit=10)
        newest = restarts.stored_studies(tx, limit=1)
        later = restarts.stored_studies(tx, since=tx.now, limit=10)
    assert {it.study_instance_uid for it in every} == {"1", "2"}
    assert [it.study_instance_uid for it in named] == ["2"]
    assert [it.study_instance_uid for it in newest] == ["2"]
    assert later == []
    assert every[0].spool_names == ("files/2.1.dcm",)


def test_an_old_study_is_not_delivered_again_unless_asked_for(database: Database) -> None:
    header = StudyHeader(study_instance_uid="1", study_date=date(2001, 1, 1))
    rows.arrive(database, "1.1", header)
    _dismiss(database, "1.1", InstanceState.REJECTED)
    rows.report(database, "2.25.1", study="1")
    with database.begin() as tx:
        tx.conn.execute(sa.update(studies).values(backlog=False))
        restarts.reprocess(tx, "1", max_age_days=7, deliver_anyway=False)
    assert _study(database, "1")["backlog"]
    _dismiss(database, "1.1", InstanceState.REJECTED)
    with database.begin() as tx:
        restarts.reprocess(tx, "1", max_age_days=7, deliver_anyway=True)
    assert not _study(database, "1")["backlog"]


def test_a_retracted_study_is_reported_anew_only_when_delivery_is_asked_for(
    database: Database,
) -> None:
    _reported(database)
    with database.begin() as tx:
        tx.conn.execute(sa.update(studies).values(retracted_at=tx.now))
        restarts.reprocess(tx, rows.STUDY, max_age_days=7, deliver_anyway=False)
        study_id = tx.conn.execute(sa.select(studies.c.id)).scalar_one()
        kept = reports.snapshot(tx, study_id)
        restarts.reprocess(tx, rows.STUDY, max_age_days=7, deliver_anyway=True)
        released = reports.snapshot(tx, study_id)
    assert kept.retracted
    assert kept.newest_report is not None
    assert kept.newest_report.content_digest == "digest"
    assert not released.retracted
    assert released.newest_report is not None
    assert released.newest_report.content_digest != "digest"


def test_a_worker_that_holds_a_row_loses_it_to_a_retry(database: Database) -> None:
    _reported(database)
    with database.begin() as tx:
        assert claim(tx, INFER, limit=1, lease_s=60) == []
        restarts.reprocess(tx, rows.STUDY, max_age_days=7, deliver_anyway=False)
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60)
        assert restarts.retry_instances(tx) == 0
    assert held.attempts == 1
