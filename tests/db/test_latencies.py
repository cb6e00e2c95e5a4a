"""How long stages took, over both databases: what is counted, once, and read by an index."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import arrivals, deliveries, latencies, outcomes, restarts, schema
from db.claims import PREPARE, claim, make_all_due
from db.engine import Database
from db.latencies import Counted
from db.tables import InstanceState, instances
from tests.support import rows
from tests.support.statements import asked_of

START = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BOUNDS_S = (1.0, 10.0, 60.0)
PACS = "PACS@h:104"


class Site:
    """A database whose clock a test moves."""

    def __init__(self, url: str) -> None:
        self.now = START
        self.database = Database(url, clock=lambda _conn: self.now)

    def let_pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def deliver(self, destination: str = PACS) -> None:
        with self.database.begin() as tx:
            (held,) = deliveries.claim_due(tx, destination, limit=1, lease_s=60)
            deliveries.record_sent(tx, held, ask_commitment=False)

    def whole_way(self, uid: str, study: str) -> None:
        """2 s to the picture, 5 s to the answer, 20 s to the report, 0.5 s to the PACS."""
        rows.arrive(self.database, uid, study)
        self.let_pass(2)
        rows.prepare(self.database, uid)
        self.let_pass(5)
        rows.predict(self.database, uid)
        self.let_pass(20)
        rows.report(self.database, f"{uid}.9", PACS, study=study)
        self.let_pass(0.5)
        self.deliver()

    def stages(self, since: datetime = START - DAY) -> dict[str, Counted]:
        with self.database.read() as tx:
            return latencies.count_stages(tx, BOUNDS_S, since=since, until=self.now)

    def turnaround(self, since: datetime = START - DAY) -> Counted:
        with self.database.read() as tx:
            return latencies.count_turnaround(tx, BOUNDS_S, since=since, until=self.now)


@pytest.fixture
def site(database_url: str) -> Iterator[Site]:
    made = Site(database_url)
    schema.upgrade(made.database)
    yield made
    made.database.dispose()


def _is_near(counted: Counted, within: tuple[int, ...], sum_s: float) -> bool:
    return counted.within == within and counted.sum_s == pytest.approx(sum_s, abs=0.001)


def test_each_stage_of_a_study_falls_into_its_bucket(site: Site) -> None:
    site.whole_way("1.2.3.1", "1.2.3")
    found = site.stages()
    assert found["store"].count == 0  # nobody measured it
    assert _is_near(found["prepare"], (0, 1, 1), 2)
    assert _is_near(found["infer"], (0, 1, 1), 5)
    assert _is_near(found["report"], (0, 0, 1), 20)
    assert _is_near(found["deliver"], (1, 1, 1), 0.5)
    assert _is_near(site.turnaround(), (0, 0, 1), 27.5)


def test_spans_that_follow_each_other_count_everything_once(site: Site) -> None:
    looked_at = START - DAY
    total = latencies.nothing(BOUNDS_S)
    for number in range(3):
        site.whole_way(f"1.2.{number}.1", f"1.2.{number}")  # ends at the very end of a span
        total += site.turnaround(looked_at)
        looked_at = site.now
        total += site.turnaround(looked_at)
    assert _is_near(total, (0, 0, 3), 3 * 27.5)


def test_how_long_a_store_took_is_what_the_listener_says(site: Site) -> None:
    with site.database.begin() as tx:
        arrivals.record_arrival(
            tx, rows.arrival("1.2.3.1"), settle_s=0, max_age_days=7, store_s=0.25
        )
    assert _is_near(site.stages()["store"], (1, 1, 1), 0.25)


def test_what_was_rejected_has_no_times_of_an_earlier_analysis(site: Site) -> None:
    site.whole_way("1.2.3.1", "1.2.3")
    with site.database.begin() as tx:
        restarts.reprocess(tx, "1.2.3", max_age_days=7, deliver_anyway=False)
        tx.conn.execute(sa.update(instances).values(backlog=False))
    site.let_pass(10)
    before = site.now
    site.let_pass(1)
    with site.database.begin() as tx:
        (held,) = claim(tx, PREPARE, limit=1, lease_s=60)
        outcomes.record_dismissal(tx, PREPARE, held, InstanceState.REJECTED, "lateral view")
    found = site.stages(before)
    assert found["prepare"].count == found["infer"].count == 0


def test_backlog_and_what_is_reprocessed_tell_nothing_of_live_work(site: Site) -> None:
    site.whole_way("1.2.3.1", "1.2.3")
    before = site.now
    site.let_pass(3 * 86400)
    with site.database.begin() as tx:
        assert restarts.reprocess(tx, "1.2.3", max_age_days=100_000, deliver_anyway=False) == 1
    rows.prepare(site.database, "1.2.3.1")
    rows.predict(site.database, "1.2.3.1")
    rows.report(site.database, "1.2.3.8", PACS)
    site.deliver()
    found = site.stages(before)
    assert {name: it.count for name, it in found.items()} == {
        "store": 0,
        "prepare": 0,
        "infer": 0,
        "report": 0,
        "deliver": 1,
    }
    assert site.turnaround(before).count == 0


def test_a_report_that_a_later_image_outdates_is_no_turnaround(site: Site) -> None:
    rows.analyse(site.database, "1.2.3.1")
    rows.report(site.database, "1.2.3.9", PACS)
    site.let_pass(5)
    rows.arrive(site.database, "1.2.3.2")
    site.deliver()
    assert site.turnaround().count == 0


def test_a_clock_that_was_set_back_makes_no_negative_durations(site: Site) -> None:
    rows.arrive(site.database, "1.2.3.1")
    site.let_pass(-100)
    with site.database.begin() as tx:
        assert make_all_due(tx)
    rows.prepare(site.database, "1.2.3.1")
    site.let_pass(1)
    rows.predict(site.database, "1.2.3.1")
    assert site.stages()["prepare"].count == 0
    assert _is_near(site.stages()["infer"], (1, 1, 1), 1)


def test_no_look_reads_more_than_what_ended_meanwhile(tmp_path: Path) -> None:
    """However large the tables are, which PostgreSQL's planner knows only of large ones."""
    site = Site(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(site.database)
    with asked_of(site.database) as asked:
        site.stages()
        site.turnaround()
    with site.database.read() as tx:
        steps = [
            row[-1]
            for statement, parameters in asked
            if statement.startswith("SELECT")
            for row in tx.conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    site.database.dispose()
    assert not [step for step in steps if step.startswith("SCAN")]
    for index, times in {
        "ix_instances_received_at": 1,
        "ix_instances_finished_at": 2,
        "ix_reports_created_at": 1,
        "ix_outbox_sent_at": 2,
    }.items():
        assert sum(index in step for step in steps) == times, index
