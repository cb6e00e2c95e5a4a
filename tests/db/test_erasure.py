from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from db import arrivals, deliveries, erasure, outcomes, retractions
from db.claims import DELIVER, INFER, claim, claim_for
from db.engine import Database
from db.errors import LeaseLost
from db.tables import ObjectKind, erasures, metadata
from tests.support import rows


def _busy_study(database: Database) -> None:
    """Every table has a row of it: a report, a conflict, a picture that waits for the model."""
    rows.analyse(database, "1.1")
    rows.report(database, "2.25.1", "A@h:1", "B@h:2")
    with database.begin() as tx:
        (held,) = claim_for(tx, DELIVER, "A@h:1", limit=1, lease_s=60)
        (due,) = deliveries.due_deliveries(tx, [held])
        made = rows.built_report("2.25.2").sr
        deliveries.deliver_instead(tx, held, deliveries.insert_conversion(tx, due, made))
        deliveries.record_sent(tx, held, ask_commitment=True)
        arrivals.record_conflict(tx, rows.arrival("1.1", spool_name="files/beside.dcm"))
    rows.arrive(database, "1.2")
    rows.prepare(database, "1.2")


def _left(database: Database) -> Mapping[str, int]:
    counts = {}
    with database.read() as tx:
        for table in metadata.sorted_tables:
            query = sa.select(sa.func.count()).select_from(table)
            counts[table.name] = tx.conn.execute(query).scalar_one()
    return counts


def test_nothing_is_left_but_who_erased_it_and_its_files(database: Database) -> None:
    rows.arrive(database, "9.1", "9")
    others = _left(database)
    _busy_study(database)
    with database.read() as tx:
        found = erasure.erasable(tx, rows.STUDY)
    assert found is not None
    assert found.delivered == {"A@h:1": 1}
    with database.begin() as tx:
        names = erasure.erase(tx, rows.STUDY, erased_by="someone@here")
    assert names == ["files/1.1.dcm", "files/1.2.dcm", "files/beside.dcm"]
    assert _left(database) == {**others, "erasures": 1, "erased_files": 3}
    with database.read() as tx:
        line: dict[str, Any] = dict(tx.conn.execute(sa.select(erasures)).mappings().one())
        assert arrivals.unknown_spool_names(tx, [*names, "files/other.dcm"]) == {"files/other.dcm"}
        assert sorted(erasure.files_to_remove(tx)) == names
    del line["id"], line["erased_at"]
    assert line == {
        "study_instance_uid": rows.STUDY,
        "erased_by": "someone@here",
        "instance_count": 2,
        "object_count": 2,
        "delivery_count": 2,
        "delivered_count": 1,
        "file_count": 3,
    }
    with database.begin() as tx:
        erasure.record_removed(tx, names)
        assert erasure.files_to_remove(tx) == []
        assert erasure.erase(tx, rows.STUDY, erased_by="someone@here") is None


def test_who_works_on_an_erased_study_writes_nothing(database: Database) -> None:
    _busy_study(database)
    with database.begin() as tx:
        (inferring,) = claim(tx, INFER, limit=1, lease_s=60)
        (sending,) = claim_for(tx, DELIVER, "B@h:2", limit=1, lease_s=60)
    with database.begin() as tx:
        erasure.erase(tx, rows.STUDY, erased_by="someone@here")
    with pytest.raises(LeaseLost), database.begin() as tx:
        outcomes.record_prediction(tx, inferring, rows.PREDICTION)
    with pytest.raises(LeaseLost), database.begin() as tx:
        deliveries.record_sent(tx, sending, ask_commitment=False)


def test_a_study_that_comes_again_is_a_new_one(database: Database) -> None:
    _busy_study(database)
    with database.begin() as tx:
        erasure.erase(tx, rows.STUDY, erased_by="someone@here")
    rows.arrive(database, "1.1")
    with database.read() as tx:
        found = erasure.erasable(tx, rows.STUDY)
    assert found is not None
    assert (found.instance_count, found.object_count) == (1, 0)


def test_a_rejection_note_that_waits_is_told(database: Database) -> None:
    _busy_study(database)
    note = replace(rows.built_report("2.25.9", "A@h:1").sr, kind=ObjectKind.REJECTION)
    with database.begin() as tx:
        found = retractions.retractable(tx, rows.STUDY)
        assert found is not None
        retractions.retract(tx, found, [note])
        waiting = erasure.erasable(tx, rows.STUDY)
    assert waiting is not None
    assert (waiting.retracted, waiting.notes_waiting) == (True, ("A@h:1",))
