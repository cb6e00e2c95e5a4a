"""Figures over many rows."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from db import statistics
from db.engine import Database
from db.statistics import Durations
from db.tables import UtcDateTime
from tests.support import population


def test_every_study_is_counted_on_its_day_and_in_its_band(database: Database) -> None:
    start = datetime.now(UTC) - timedelta(days=5)
    population.fill(database, 700, start=start)  # almost five days
    since = start + timedelta(hours=30)
    received = "SELECT received_at, band FROM study_results"
    with database.read() as tx:
        rows = tx.conn.execute(sa.text(received).columns(received_at=UtcDateTime, band=sa.String))
        expected = Counter(
            (row.received_at.date().isoformat(), row.band)
            for row in rows
            if row.received_at >= since
        )
        found = statistics.studies_per_day(tx, since)
    assert {(row["day"], row["band"]): row["count"] for row in found} == expected
    assert [row["day"] for row in found] == sorted(row["day"] for row in found)
    assert len({day for day, _ in expected}) > 3


def test_logits_are_counted_of_the_newest_images(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    population.fill(database, 300)
    newest_first = "SELECT logit, model_version FROM instances ORDER BY received_at DESC"
    with database.read() as tx:
        images = tx.conn.execute(sa.text(newest_first)).all()
        for most in (20, 1000):
            monkeypatch.setattr(statistics, "COUNTED_MAX", most)
            counts = statistics.logit_counts(
                tx, [-1.0, 1.0], population.START, model_version="1.1.0"
            )
            some = [
                it.logit
                for it in images[:most]
                if it.logit is not None and it.model_version == "1.1.0"
            ]
            low, high = sum(it < -1 for it in some), sum(it >= 1 for it in some)
            assert counts == [low, len(some) - low - high, high]
            assert len(some) > 5


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_days_steps_are_timed(database: Database, count: int) -> None:
    population.fill(database, count)
    with database.read() as tx:
        steps = statistics.study_durations(tx, population.START)
        assert statistics.total_duration(tx, population.START) == steps["total_s"]
    if not count:
        assert set(steps.values()) == {Durations(count=0, median_s=None, p95_s=None)}
        return
    assert steps["report_s"].median_s == 30
    assert steps["delivery_s"].p95_s == 1
    assert 0 < steps["delivery_s"].count <= steps["total_s"].count <= count


def test_percentiles_are_the_nearest_rank_of_the_newest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    population.fill(database, 300)
    newest_first = "SELECT total_s FROM instance_times ORDER BY received_at DESC"
    with database.read() as tx:
        every = [row[0] for row in tx.conn.exec_driver_sql(newest_first)]
        for limit in (20, 300):
            monkeypatch.setattr(statistics, "TIMED_MAX", limit)
            found = statistics.instance_durations(tx, population.START)["total_s"]
            timed = sorted(float(it) for it in every[:limit] if it is not None)
            assert found.count == len(timed)
            assert found.median_s == timed[(len(timed) - 1) // 2]
            assert found.p95_s == timed[len(timed) - 1 - len(timed) // 20]
