"""Latency histograms for Prometheus, counted by the process that serves them.

What each stage took stands in the database, whichever process did the work, and however short it
lived. A look adds what ended since the look before. Counters begin at zero with the process, as
Prometheus expects; what ended while none ran stands in the view `study_times` alone.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from prometheus_client.core import HistogramMetricFamily, Metric

from db import latencies
from db.engine import POSTGRESQL_STATEMENT_TIMEOUT_S, Transaction
from db.latencies import Counted

BOUNDS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
# A row is stamped when its transaction begins; once so much has passed, all have been committed.
LAG = timedelta(seconds=POSTGRESQL_STATEMENT_TIMEOUT_S)
SPAN_MAX = timedelta(minutes=15)  # of one look: who was not asked for days catches up bit by bit


class Histograms:
    """Not safe to use from several threads at once."""

    def __init__(self) -> None:
        self._counted_until: datetime | None = None
        self._turnaround = latencies.nothing(BOUNDS_S)
        self._stages = dict.fromkeys(latencies.STAGES, latencies.nothing(BOUNDS_S))

    def read(self, tx: Transaction) -> Iterable[Metric]:
        """Count what has ended since the last look, and say all that was counted."""
        self._count(tx)
        stages = HistogramMetricFamily(
            "cxr_stage_seconds",
            "How long each stage of live work took, its wait included.",
            labels=["stage"],
        )
        for stage, counted in self._stages.items():
            stages.add_metric([stage], _buckets(counted), counted.sum_s)
        turnaround = HistogramMetricFamily(
            "cxr_turnaround_seconds",
            "From a study's last image to its report at a destination.",
        )
        turnaround.add_metric([], _buckets(self._turnaround), self._turnaround.sum_s)
        yield from (stages, turnaround)

    def _count(self, tx: Transaction) -> None:
        settled = tx.now - LAG
        since = self._counted_until or settled
        if settled <= since:  # the first look, or the clock was set back
            self._counted_until = settled
            return
        until = min(settled, since + SPAN_MAX)
        stages = latencies.count_stages(tx, BOUNDS_S, since=since, until=until)
        turnaround = latencies.count_turnaround(tx, BOUNDS_S, since=since, until=until)
        for stage, counted in stages.items():  # now that no query can fail any more
            self._stages[stage] += counted
        self._turnaround += turnaround
        self._counted_until = until


def _buckets(counted: Counted) -> list[tuple[str, float]]:
    bounds = [*(str(it) for it in BOUNDS_S), "+Inf"]
    return list(zip(bounds, [*counted.within, counted.count], strict=True))
