from dataclasses import replace

import pytest
import sqlalchemy as sa

from db import deliveries, queries, retractions
from db.claims import DELIVER, claim_for
from db.engine import Database
from db.errors import RevisionChanged
from db.reports import BuiltObject
from db.retractions import Retractable
from db.tables import ObjectKind, outbox
from tests.support import rows


def _reported(database: Database, *destinations: str) -> None:
    rows.arrive(database, "1.1")
    rows.prepare(database, "1.1")
    rows.predict(database, "1.1")
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
    rows.arrive(database, "1.2")
    rows.prepare(database, "1.2")
    rows.predict(database, "1.2")
    rows.report(database, "2.25.2", "A@h:1")
    with database.begin() as tx:
        tx.conn.execute(sa.update(outbox).values(state="sent"))
    ((made,),) = _found(database).delivered
    assert made.payload == b"report 2.25.2"


def test_a_study_that_does_not_exist_is_none(database: Database) -> None:
    with database.read() as tx:
        assert retractions.retractable(tx, "9.9") is None
