"""The reconciler's look at the clock."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from db.claims import PREPARE, due_keys
from db.engine import Database
from db.tables import instances
from tests.support import rows
from worker.reconcile import CLOCK_STEP_MIN_S, Clock, follow_clock

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def test_a_clock_that_runs_is_not_taken_for_one_that_was_set_back() -> None:
    clock = Clock()
    assert clock.stepped_back_s(NOW, 100.0) == 0
    assert clock.stepped_back_s(NOW + timedelta(seconds=5), 105.0) == 0
    assert clock.stepped_back_s(NOW + timedelta(hours=1), 106.0) < 0  # set forward


def test_a_step_back_is_told_once() -> None:
    clock = Clock()
    clock.stepped_back_s(NOW, 100.0)
    assert clock.stepped_back_s(NOW - timedelta(minutes=10), 101.0) == 601
    assert clock.stepped_back_s(NOW - timedelta(minutes=10) + timedelta(seconds=1), 102.0) == 0


def test_after_a_step_back_what_was_due_is_due(database: Database) -> None:
    offset = timedelta()
    moved = Database(
        database.engine.url.render_as_string(hide_password=False),
        clock=lambda _conn: datetime.now(UTC) + offset,
    )
    rows.arrive(moved, "1.2.3.4")
    clock = Clock()
    follow_clock(moved, clock)
    offset = -timedelta(seconds=60 * CLOCK_STEP_MIN_S)
    with moved.read() as tx:
        assert due_keys(tx, PREPARE, limit=1) == []
    follow_clock(moved, clock)
    with moved.read() as tx:
        assert due_keys(tx, PREPARE, limit=1) == ["1.2.3.4"]
        due_at = tx.conn.execute(sa.select(instances.c.due_at)).scalar_one()
        assert due_at <= tx.now
    moved.dispose()
