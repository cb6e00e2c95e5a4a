"""One contract, held by SQLite and PostgreSQL alike."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from db import deliveries, destinations, schema
from db.arrivals import StudyHeader
from db.claims import (
    COMMIT,
    DELIVER,
    INFER,
    PREPARE,
    REPORT,
    Stage,
    claim,
    claim_for,
    complete,
    due_destinations,
    due_keys,
    hand_back,
    make_all_due,
    release,
)
from db.engine import Database
from db.errors import LeaseLost
from db.tables import instances, outbox
from tests.support import rows


def _claim(database: Database, stage: Stage = PREPARE, **how: object) -> list[int]:
    options = {"limit": 10, "lease_s": 60.0} | how
    with database.begin() as tx:
        return [held.id for held in claim(tx, stage, **options)]  # type: ignore[arg-type]


def test_a_claimed_row_is_not_claimed_again_until_its_lease_ends(database: Database) -> None:
    rows.arrive(database, "1.1")
    assert len(_claim(database, lease_s=60)) == 1
    assert _claim(database) == []


def test_an_expired_lease_makes_the_row_due_and_counts_another_attempt(
    database: Database,
) -> None:
    rows.arrive(database, "1.1")
    with database.begin() as tx:
        (first,) = claim(tx, PREPARE, limit=1, lease_s=0)
    with database.begin() as tx:
        (second,) = claim(tx, PREPARE, limit=1, lease_s=60)
    assert (first.attempts, second.attempts) == (1, 2)
    assert first.token != second.token


def test_only_the_holder_of_the_lease_may_complete(database: Database) -> None:
    rows.arrive(database, "1.1")
    with database.begin() as tx:
        (late,) = claim(tx, PREPARE, limit=1, lease_s=0)
    with database.begin() as tx:
        (holder,) = claim(tx, PREPARE, limit=1, lease_s=60)
    with pytest.raises(LeaseLost), database.begin() as tx:
        complete(tx, PREPARE, late, {"state": "failed"})
    with database.begin() as tx:
        complete(tx, PREPARE, holder, {"state": "failed"})
    with pytest.raises(LeaseLost), database.begin() as tx:
        complete(tx, PREPARE, holder, {"state": "predicted"})


def test_the_named_row_comes_before_all_others(database: Database) -> None:
    for number in range(5):
        rows.arrive(database, f"1.{number}")
    with database.begin() as tx:
        held = claim(tx, PREPARE, limit=2, lease_s=60, first="1.3")
        uids = [
            tx.conn.execute(
                sa.select(instances.c.sop_instance_uid).where(instances.c.id == it.id)
            ).scalar_one()
            for it in held
        ]
    assert uids == ["1.3", "1.0"]


def test_a_name_that_is_not_due_is_passed_over(database: Database) -> None:
    rows.arrive(database, "1.1")
    assert len(_claim(database, first="9.9")) == 1


def test_a_row_tried_before_is_claimed_alone(database: Database) -> None:
    for number in range(4):
        rows.arrive(database, f"1.{number}")
    with database.begin() as tx:
        (poison,) = claim(tx, PREPARE, limit=1, lease_s=0, first="1.2")
    assert _claim(database, first="1.2", limit=4) == [poison.id]
    assert len(_claim(database, limit=4)) == 3


def test_a_released_row_waits_for_its_retry(database: Database) -> None:
    rows.arrive(database, "1.1")
    with database.begin() as tx:
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60)
        release(tx, PREPARE, held, error="disk", retry_in_s=3600)
    assert _claim(database) == []
    with database.begin() as tx:
        tx.conn.execute(sa.update(instances).values(due_at=tx.now))
    with database.begin() as tx:
        (again,) = claim(tx, PREPARE, limit=1, lease_s=60)
    assert (again.attempts, again.error) == (2, "disk")


def test_live_rows_go_before_backlog(database: Database) -> None:
    month_ago = datetime.now(UTC).date() - timedelta(days=30)
    old = StudyHeader(study_instance_uid="9", study_date=month_ago)
    rows.arrive(database, "1.1", study=old)
    rows.arrive(database, "1.2")
    with database.begin() as tx:
        assert due_keys(tx, PREPARE, limit=5) == ["1.2", "1.1"]


def test_many_workers_never_claim_a_row_twice(database: Database) -> None:
    for number in range(40):
        rows.arrive(database, f"1.{number}")
    taken: list[int] = []

    def work() -> None:
        while held := _claim(database, limit=3):
            taken.extend(held)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 40


def test_a_study_is_due_for_its_report_once_nothing_is_pending(database: Database) -> None:
    rows.arrive(database, "1.1")
    assert _claim(database, REPORT) == []
    rows.prepare(database, "1.1")
    assert _claim(database, REPORT) == []
    rows.predict(database, "1.1")
    assert len(_claim(database, REPORT)) == 1


def test_a_study_settles_before_its_report(database: Database) -> None:
    rows.arrive(database, "1.1", settle_s=3600)
    rows.prepare(database, "1.1")
    rows.predict(database, "1.1")
    assert _claim(database, REPORT) == []


def test_a_destination_gets_the_reports_of_a_study_in_order(database: Database) -> None:
    for number in (1, 2):
        rows.analyse(database, f"1.{number}")
        rows.report(database, f"2.25.{number}", "A@host:1", "B@host:2")
    with database.begin() as tx:
        first, second = claim_for(tx, DELIVER, "A@host:1", limit=9, lease_s=60)
        assert first.id < second.id
        release(tx, DELIVER, first, error="refused", retry_in_s=60)
        release(tx, DELIVER, second, error="waits", retry_in_s=-1)
        assert claim_for(tx, DELIVER, "A@host:1", limit=9, lease_s=60) == []
        assert len(claim_for(tx, DELIVER, "B@host:2", limit=9, lease_s=60)) == 2
        tx.conn.execute(
            sa.update(outbox)
            .where(outbox.c.id == first.id)
            .values(due_at=tx.now - timedelta(seconds=2))
        )
        again = claim_for(tx, DELIVER, "A@host:1", limit=9, lease_s=60)
        assert [held.id for held in again] == [first.id, second.id]


def test_time_is_the_databases_clock(database_url: str) -> None:
    late = datetime.now(UTC) + timedelta(days=2)
    present, future = Database(database_url), Database(database_url, clock=lambda _: late)
    schema.upgrade(present)
    rows.arrive(present, "1.1")
    assert len(_claim(present, INFER)) == 0
    with present.begin() as tx:
        claim(tx, PREPARE, limit=1, lease_s=86400)
    assert _claim(present) == []
    assert len(_claim(future)) == 1
    present.dispose()
    future.dispose()


def test_every_destination_is_seen_however_much_waits_for_another(database: Database) -> None:
    for number in range(3):
        image = f"1.{number}"
        rows.analyse(database, image, f"9.{number}")
        names = ("SLOW@h:1", "FAST@h:2") if number == 2 else ("SLOW@h:1",)
        rows.report(database, f"2.25.{number}", *names, study=f"9.{number}")
    with database.begin() as tx:
        tx.conn.execute(sa.update(outbox).values(due_at=outbox.c.created_at))
    with database.read() as tx:
        assert due_destinations(tx, DELIVER) == ["SLOW@h:1", "FAST@h:2"]
        assert due_destinations(tx, COMMIT) == []
    with database.begin() as tx:
        destinations.hold(tx, "SLOW@h:1")
        assert due_destinations(tx, DELIVER) == ["FAST@h:2"]
        (held,) = claim_for(tx, DELIVER, "FAST@h:2", limit=9, lease_s=60)
        assert due_destinations(tx, DELIVER) == []
        deliveries.record_sent(tx, held, ask_commitment=True)
        assert due_destinations(tx, COMMIT) == ["FAST@h:2"]
        destinations.release(tx, "SLOW@h:1")
        until = destinations.engage(tx, "SLOW@h:1", for_s=60)
        assert until is not None
        assert destinations.engage(tx, "SLOW@h:1", for_s=60) is None
        assert due_destinations(tx, DELIVER) == []
        destinations.disengage(tx, "SLOW@h:1", until - timedelta(seconds=1))  # of one before us
        assert due_destinations(tx, DELIVER) == []
        destinations.disengage(tx, "SLOW@h:1", until)
        assert due_destinations(tx, DELIVER) == ["SLOW@h:1"]
        destinations.engage(tx, "SLOW@h:1", for_s=60)
        make_all_due(tx)
        assert due_destinations(tx, DELIVER) == ["SLOW@h:1"]


def test_a_row_that_is_handed_back_was_never_claimed_unless_it_is_old(database: Database) -> None:
    rows.arrive(database, "1.1")
    for is_young, attempts in ((True, 0), (False, 1)):
        with database.begin() as tx:
            (held,) = claim(tx, PREPARE, limit=1, lease_s=60)
            older = timedelta() if not is_young else timedelta(days=1)
            hand_back(tx, PREPARE, held, error="disk", retry_in_s=0, younger_than=older)
            assert tx.conn.execute(sa.select(instances.c.attempts)).scalar_one() == attempts
            with pytest.raises(LeaseLost):
                hand_back(tx, PREPARE, held)
