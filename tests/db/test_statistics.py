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


def test_percentiles_are_the_nearest_rank_of_the_newest(database: Database) -> None:
    population.fill(database, 300)
    newest_first = "SELECT total_s FROM instance_times ORDER BY received_at DESC"
    with database.read() as tx:
        every = [row[0] for row in tx.conn.exec_driver_sql(newest_first)]
        for limit in (20, 300):
            found = statistics.instance_durations(tx, population.START, limit)["total_s"]
            timed = sorted(float(it) for it in every[:limit] if it is not None)
            assert found.count == len(timed)
            assert found.median_s == timed[(len(timed) - 1) // 2]
            assert found.p95_s == timed[len(timed) - 1 - len(timed) // 20]
