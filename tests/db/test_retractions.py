from dataclasses import replace

import pytest
import sqlalchemy as sa

from db import deliveries, queries, reports, restarts, retractions
from db.claims import DELIVER, claim_for
from db.engine import Database
from db.errors import RevisionChanged
from db.reports import BuiltObject
from db.retractions import Retractable
from db.tables import ObjectKind, outbox
from tests.support import rows


def _reported(database: Database, *destinations: str) -> None:
    rows.analyse(database, "1.1")
    rows.report(database, "2.25.1", *destinations)


def _send(database: Database, destination: str) -> None:
    with database.begin() as tx:
        for held in claim_for(tx, DELIVER, destination, limit=9, lease_s=60):
            deliveries.record_sent(tx, held, ask_commitment=False)


def _found(database: Database) -> Retractable:
    with database.read() as tx:
        found = retractions.retractable(tx, rows.STUDY)
    assert found is not None
    return found


def _note(uid: str, *destinations: str) -> BuiltObject:
    return replace(rows.built_report(uid, *destinations).sr, kind=ObjectKind.REJECTION)


def _retract(database: Database, found: Retractable, *notes: BuiltObject) -> None:
    with database.begin() as tx:
        retractions.retract(tx, found, notes)


def test_what_was_sent_is_named_and_what_was_never_tried_is_dropped(database: Database) -> None:
    _reported(database, "A@h:1", "B@h:2")
    _send(database, "A@h:1")
    found = _found(database)
    assert list(found.delivered.values()) == [("A@h:1",)]
    ((made,),) = found.delivered
    assert made.payload == b"report 2.25.1"
    _retract(database, found, _note("2.25.9", "A@h:1"))
    with database.read() as tx:
        sent = queries.find_deliveries(tx, rows.STUDY)
        (study,) = queries.find_study_results(tx, queries.ResultFilter())
    assert {(row["kind"], row["destination"], row["state"]) for row in sent} == {
        ("sr", "A@h:1", "sent"),
        ("rejection", "A@h:1", "pending"),
    }
    assert study["retracted_at"] is not None


def test_a_try_that_ended_nowhere_may_have_got_through(database: Database) -> None:
    _reported(database, "A@h:1")
    with database.begin() as tx:
        (held,) = claim_for(tx, DELIVER, "A@h:1", limit=1, lease_s=60)
        deliveries.postpone(tx, held, error="no answer", retry_in_s=3600)
    found = _found(database)
    assert list(found.delivered.values()) == [("A@h:1",)]
    _retract(database, found, _note("2.25.9", "A@h:1"))
    with database.begin() as tx:  # the note does not overtake the report
        assert claim_for(tx, DELIVER, "A@h:1", limit=9, lease_s=60) == []


def test_a_delivery_that_comes_in_between_stops_the_retraction(database: Database) -> None:
    _reported(database, "A@h:1", "B@h:2")
    _send(database, "A@h:1")
    found = _found(database)
    _send(database, "B@h:2")
    with pytest.raises(RevisionChanged):
        _retract(database, found, _note("2.25.9", "A@h:1"))
    assert _found(database).retracted_at is None


def test_once_more_names_only_what_is_new(database: Database) -> None:
    _reported(database, "A@h:1")
    _send(database, "A@h:1")
    _retract(database, _found(database), _note("2.25.9", "A@h:1"))
    again = _found(database)
    assert again.retracted_at is not None
    assert again.delivered == {}
    with database.begin() as tx:
        restarts.reprocess(tx, rows.STUDY, max_age_days=7, deliver_anyway=True)
    rows.prepare(database, "1.1")
    rows.predict(database, "1.1")
    rows.report(database, "2.25.2", "A@h:1")
    with database.begin() as tx:
        tx.conn.execute(sa.update(outbox).values(state="sent"))
    ((made,),) = _found(database).delivered
    assert made.payload == b"report 2.25.2"


def test_a_report_that_is_drawn_while_its_study_is_withdrawn_is_not_queued(
    database: Database,
) -> None:
    rows.analyse(database, "1.1")
    held, revision = rows.claim_report(database)
    _retract(database, _found(database))
    report = rows.built_report("2.25.1", "A@h:1")
    with pytest.raises(RevisionChanged, match="withdrawn"), database.begin() as tx:
        reports.record_report(tx, held, revision, rows.RESULT, report)
    with database.read() as tx:
        assert queries.find_deliveries(tx, rows.STUDY) == []
    with database.begin() as tx:  # as it is made next, for nobody
        reports.record_report(tx, held, revision, rows.RESULT, rows.built_report("2.25.1"))


def test_what_was_withdrawn_is_not_tried_again(database: Database) -> None:
    _reported(database, "A@h:1", "B@h:2")  # B takes no notes
    for name in ("A@h:1", "B@h:2"):
        with database.begin() as tx:
            (held,) = claim_for(tx, DELIVER, name, limit=1, lease_s=60)
            deliveries.record_delivery_failure(tx, held, "refused")
    _retract(database, _found(database), _note("2.25.9", "A@h:1"))
    with database.begin() as tx:
        assert restarts.retry_deliveries(tx) == 0
        assert restarts.reprocess(tx, rows.STUDY, max_age_days=7, deliver_anyway=True) == 1
        tx.conn.execute(sa.update(outbox).where(outbox.c.state == "pending").values(state="failed"))
        assert restarts.retry_deliveries(tx, destination="A@h:1") == 1  # the note itself
    with database.read() as tx:
        states = {row["kind"]: row["state"] for row in queries.find_deliveries(tx, rows.STUDY)
                  if row["destination"] == "A@h:1"}  # fmt: skip
    assert states == {"sr": "failed", "rejection": "pending"}


def test_a_study_that_does_not_exist_is_none(database: Database) -> None:
    with database.read() as tx:
        assert retractions.retractable(tx, "9.9") is None
