"""Figures over many rows, against the same figures made by hand."""

import math

import pytest
import sqlalchemy as sa

from db import statistics
from db.engine import Database
from db.queries import instance_times, study_times
from db.statistics import SECONDS_MAX, Durations
from tests.support import population


def _nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_percentiles_are_the_nearest_rank_of_what_was_timed(database: Database, count: int) -> None:
    population.fill(database, count)
    since = population.START
    with database.read() as tx:
        for view, found in (
            (study_times, statistics.study_durations(tx, since)),
            (instance_times, statistics.instance_durations(tx, since)),
        ):
            for step, durations in found.items():
                all_values = tx.conn.execute(sa.select(view.c[step])).scalars()
                values = [it for it in all_values if it is not None and 0 <= it <= SECONDS_MAX]
                assert durations == Durations(
                    count=len(values),
                    median_s=_nearest_rank(values, 0.5) if values else None,
                    p95_s=_nearest_rank(values, 0.95) if values else None,
                ), step
        assert (
            statistics.total_duration(tx, since)
            == (statistics.study_durations(tx, since)["total_s"])
        )
