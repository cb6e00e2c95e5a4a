from dataclasses import replace

import pytest
import sqlalchemy as sa

from db import deliveries, queries, reports
from db.claims import DELIVER, claim_for
from db.engine import Database
from db.errors import LeaseLost, RevisionChanged
from db.tables import ObjectKind, outbox, studies
from db.tables import reports as reports_table
from tests.support import rows


def _predicted(database: Database, uid: str = "1.1") -> None:
    rows.analyse(database, uid)


def _count(database: Database, table: sa.Table) -> int:
    with database.read() as tx:
        return int(tx.conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_report_result_and_deliveries_commit_together(database: Database) -> None:
    _predicted(database)
    rows.report(database, "2.25.1", "A@host:1", "B@host:2")
    with database.read() as tx:
        (study,) = queries.find_study_results(tx, queries.ResultFilter())
        sent = queries.find_deliveries(tx, rows.STUDY)
    assert (study["state"], study["band"], study["probability"]) == ("reported", "review", 0.4)
    assert study["sr_sop_instance_uid"] == "2.25.1"
    assert {row["destination"] for row in sent} == {"A@host:1", "B@host:2"}


def test_the_objects_of_a_report_wait_in_their_order(database: Database) -> None:
    _predicted(database)
    document = rows.built_report("2.25.1", "A@host:1", "B@host:2")
    picture = replace(document.sr, kind=ObjectKind.SALIENCY, sop_instance_uid="2.25.2",
                      destinations=("A@host:1",))  # fmt: skip
    built = replace(document, objects=(document.sr, picture))
    held, revision = rows.claim_report(database)
    with database.begin() as tx:
        reports.record_report(tx, held, revision, rows.RESULT, built)
    with database.read() as tx:
        waiting = queries.find_deliveries(tx, rows.STUDY)
        said = [(event.what, event.sop_instance_uid) for event in queries.timeline(tx, rows.STUDY)]
    assert [(row["sop_instance_uid"], row["kind"], row["destination"]) for row in waiting] == [
        ("2.25.1", "sr", "A@host:1"),
        ("2.25.1", "sr", "B@host:2"),
        ("2.25.2", "saliency", "A@host:1"),
    ]
    assert said[-2:] == [("report", "2.25.1"), ("saliency", "2.25.2")]
    with pytest.raises(ValueError, match="one SR and then what belongs"):
        replace(document, objects=(picture, document.sr))


def test_a_report_of_a_study_that_has_changed_is_not_kept(database: Database) -> None:
    _predicted(database)
    held, revision = rows.claim_report(database)
    rows.arrive(database, "1.2")
    with pytest.raises(RevisionChanged), database.begin() as tx:
        built = rows.built_report("2.25.1", "A@host:1")
        reports.record_report(tx, held, revision, rows.RESULT, built)
    assert _count(database, reports_table) == 0
    assert _count(database, outbox) == 0


def test_a_report_whose_lease_is_over_is_not_kept(database: Database) -> None:
    _predicted(database)
    held, revision = rows.claim_report(database)
    with database.begin() as tx:
        tx.conn.execute(sa.update(studies).values(due_at=tx.now))
    rows.report(database, "2.25.1")
    with pytest.raises(LeaseLost), database.begin() as tx:
        reports.record_report(tx, held, revision, rows.RESULT, rows.built_report("2.25.2"))
    assert _count(database, reports_table) == 1


def test_a_study_counts_as_delivered_with_the_last_of_its_destinations(
    database: Database,
) -> None:
    _predicted(database)
    rows.report(database, "2.25.1", "A@host:1", "B@host:2")
    for destination, delivered in (("A@host:1", False), ("B@host:2", True)):
        with database.begin() as tx:
            (held,) = claim_for(tx, DELIVER, destination, limit=5, lease_s=60)
            (due,) = deliveries.due_deliveries(tx, [held])
            assert deliveries.payload(tx, due.object_id) == b"report 2.25.1"
            deliveries.record_sent(tx, held, ask_commitment=False)
        with database.read() as tx:
            (study,) = queries.find_study_results(tx, queries.ResultFilter())
        assert (study["delivered_at"] is not None) is delivered


def test_a_destination_that_is_down_is_left_alone_as_a_whole(database: Database) -> None:
    for study in ("1", "2"):
        rows.arrive(database, f"{study}.1", study=study)
        rows.prepare(database, f"{study}.1")
        rows.predict(database, f"{study}.1")
        rows.report(database, f"2.25.{study}", "A@host:1", "B@host:2", study=study)
    with database.begin() as tx:
        deliveries.postpone_destination(tx, "A@host:1", error="refused", retry_in_s=600)
    with database.begin() as tx:
        assert claim_for(tx, DELIVER, "A@host:1", limit=5, lease_s=60) == []
        assert len(claim_for(tx, DELIVER, "B@host:2", limit=5, lease_s=60)) == 2


def test_the_timeline_tells_the_whole_way(database: Database) -> None:
    _predicted(database)
    rows.report(database, "2.25.1", "A@host:1")
    with database.begin() as tx:
        (held,) = claim_for(tx, DELIVER, "A@host:1", limit=5, lease_s=60)
        deliveries.record_sent(tx, held, ask_commitment=False)
    with database.read() as tx:
        events = [event.what for event in queries.timeline(tx, rows.STUDY)]
        assert queries.timeline(tx, "9.9.9") == []
    assert events == ["received", "prepared", "predicted", "report", "sent"]


def test_the_overview_counts_what_is_due_and_since_when(database: Database) -> None:
    rows.arrive(database, "1.1")
    rows.arrive(database, "1.2")
    rows.prepare(database, "1.1")
    with database.read() as tx:
        overview = queries.overview(tx)
    due = {queue.name: queue.due for queue in overview.queues}
    assert due == {"prepare": 1, "infer": 1, "report": 0, "deliver": 0, "commit": 0}
    assert all(
        queue.waits_since is not None and queue.waits_since <= overview.now
        for queue in overview.queues
        if queue.due
    )
    assert overview.instances == {"received": 1, "prepared": 1}
