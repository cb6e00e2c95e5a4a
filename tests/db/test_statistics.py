"""Figures over many rows."""

import pytest

from db import statistics
from db.engine import Database
from db.statistics import Durations
from tests.support import population


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
    with database.read() as tx:
        times = [
            float(it)
            for (it,) in tx.conn.exec_driver_sql(
                "SELECT total_s FROM instance_times WHERE total_s IS NOT NULL "
                "ORDER BY received_at DESC"
            )
        ]
        every = statistics.instance_durations(tx, population.START)["total_s"]
        assert (every.count, every.p95_s) == (
            len(times),
            sorted(times)[-1 - len(times) * 5 // 100],
        )
        monkeypatch.setattr(statistics, "TIMED_MAX", 9)
        newest = statistics.instance_durations(tx, population.START)["total_s"]
        timed = sorted(times[: newest.count])
        assert 5 <= newest.count <= 9
        assert (newest.median_s, newest.p95_s) == (timed[(newest.count - 1) // 2], timed[-1])
