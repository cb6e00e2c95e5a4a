"""Figures over many rows: how long things took, how many came, why some were not analysed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from db.engine import Transaction
from db.queries import failures, instance_results, instance_times, study_results, study_times
from db.tables import NOT_ANALYSED, UtcDateTime, feedback, instances, reports

STUDY_STEPS = ("arrival_s", "analysis_s", "report_s", "delivery_s", "total_s")
INSTANCE_STEPS = ("prepare_s", "infer_s", "total_s")
_BANDS = ("positive", "review", "negative")
TIMED_MAX = 1_000  # the newest, enough for a percentile: a busy site is told of its last hours
TOTALS_MAX = 5_000  # likewise, of the whole way, which costs less
COUNTED_MAX = 10_000
SECONDS_MAX = 7 * 86400.0  # a study that got an image a week later says nothing of our speed


@dataclass(frozen=True, kw_only=True)
class Durations:
    """Nearest-rank percentiles in seconds; None when nothing was timed."""

    count: int
    median_s: float | None
    p95_s: float | None


def study_durations(tx: Transaction, since: datetime) -> dict[str, Durations]:
    """How long each step of a study took, of the newest TIMED_MAX studies received since."""
    return _durations(tx, study_times, STUDY_STEPS, since, TIMED_MAX)


def total_duration(tx: Transaction, since: datetime) -> Durations:
    """From a study's first object to its delivery, of the studies received since."""
    return _durations(tx, study_times, ("total_s",), since, TOTALS_MAX)["total_s"]


def instance_durations(tx: Transaction, since: datetime) -> dict[str, Durations]:
    """How long each stage of an image took, its wait included, of the newest TIMED_MAX."""
    return _durations(tx, instance_times, INSTANCE_STEPS, since, TIMED_MAX)


def _durations(
    tx: Transaction, view: sa.TableClause, steps: Sequence[str], since: datetime, limit: int
) -> dict[str, Durations]:
    query = (
        sa.select(*(view.c[step] for step in steps))
        .where(view.c.received_at >= since)
        .order_by(view.c.received_at.desc())
        .limit(limit)
    )
    rows = tx.conn.execute(query).all()
    return {step: _percentiles([row[at] for row in rows]) for at, step in enumerate(steps)}


def _percentiles(found: Sequence[float | None]) -> Durations:
    timed = sorted(it for it in found if it is not None and 0 <= it <= SECONDS_MAX)
    median_s, p95_s = (
        timed[math.ceil(share * len(timed)) - 1] if timed else None for share in (0.5, 0.95)
    )
    return Durations(count=len(timed), median_s=median_s, p95_s=p95_s)


def studies_per_day(tx: Transaction, since: datetime) -> list[Mapping[str, Any]]:
    """Rows of day ("2026-11-25", UTC), band and count, the oldest day first."""
    starts, start = [], since.astimezone(UTC)
    while start <= tx.now:
        starts.append(start)
        start = datetime.combine(start.date() + timedelta(days=1), time(), UTC)
    if not starts:
        return []
    bounds = {f"at_{day}": start for day, start in enumerate([*starts, start])}
    rows = sorted(tuple(row) for row in tx.conn.execute(_counted_by_day(len(starts)), bounds))
    return [
        {"day": starts[day].date().isoformat(), "band": band, "count": count}
        for day, *counts in rows
        for band, count in _by_band(counts).items()
    ]


@cache
def _counted_by_day(days: int) -> sa.CompoundSelect[Any]:
    """Each day by itself: to group many studies by day is to sort them."""
    at = study_results.c.received_at
    bounds = [sa.bindparam(f"at_{day}", type_=UtcDateTime) for day in range(days + 1)]
    return sa.union_all(
        *(
            sa.select(sa.literal(day), *_counts()).where(at >= bounds[day], at < bounds[day + 1])
            for day in range(days)
        )
    )


def bands(tx: Transaction, since: datetime) -> dict[str | None, int]:
    """How many studies received since each band has; None for those without one."""
    query = sa.select(*_counts()).where(study_results.c.received_at >= since)
    return _by_band(tx.conn.execute(query).one())


def _counts() -> list[sa.ColumnElement[int]]:
    """How many studies there are, and of each of _BANDS."""
    band = study_results.c.band
    each = [sa.func.count(sa.case((band == name, 1))) for name in _BANDS]
    return [sa.func.count(), *each]


def _by_band(counts: Sequence[int]) -> dict[str | None, int]:
    every, *of_bands = counts
    found = dict(zip(_BANDS, of_bands, strict=True)) | {None: every - sum(of_bands)}
    return {name: count for name, count in found.items() if count}


def highest_numbers(tx: Transaction) -> dict[str, tuple[str, int]]:
    """How many rows there have ever been, by name and with words for it: they never fall."""
    found = {}
    for name, text, table in (
        ("received", "Objects received.", instances),
        ("reports", "Reports made.", reports),
        ("feedback", "Opinions of readers.", feedback),
    ):
        highest = tx.conn.execute(sa.select(sa.func.max(table.c.id))).scalar_one()
        found[name] = (text, highest or 0)
    return found


def reasons(tx: Transaction, since: datetime, *, limit: int) -> list[Mapping[str, Any]]:
    """Why images were not analysed: state, reason and count, the most frequent first."""
    view = instance_results.c
    count = sa.func.count().label("count")
    query = (
        sa.select(view.state, view.reason, count)
        .where(view.received_at >= since, sa.text(NOT_ANALYSED))
        .group_by(view.state, view.reason)
        .order_by(count.desc(), view.state, view.reason)
        .limit(limit)
    )
    return [dict(row) for row in tx.conn.execute(query).mappings()]


def not_analysed(tx: Transaction, since: datetime, *, limit: int) -> list[Mapping[str, Any]]:
    """The images that were rejected or failed, the newest first: rows of `instance_results`."""
    view = instance_results.c
    query = (
        sa.select(instance_results)
        .where(view.received_at >= since, sa.text(NOT_ANALYSED))
        .order_by(view.received_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in tx.conn.execute(query).mappings()]


def find_failures(tx: Transaction, since: datetime, *, limit: int) -> list[Mapping[str, Any]]:
    """Rows of `failures` since, the newest first."""
    query = (
        sa.select(failures)
        .where(failures.c.failed_at >= since)
        .order_by(failures.c.failed_at.desc())
        .limit(limit)
    )
    return [dict(row) for row in tx.conn.execute(query).mappings()]


def logit_counts(
    tx: Transaction, edges: Sequence[float], since: datetime, *, model_version: str
) -> list[int]:
    """How many predicted images' logits fall below, between and beyond the edges (ascending).

    Of the newest COUNTED_MAX images at the most, which tell as much as all of a busy site's.
    """
    newest = (
        sa.select(instances.c.logit, instances.c.model_version)
        .where(instances.c.received_at >= since)
        .order_by(instances.c.received_at.desc())
        .limit(COUNTED_MAX)
        .subquery()
    )
    logit = newest.c.logit
    bins = []
    for low, high in pairwise([None, *edges, None]):
        within = [] if low is None else [logit >= low]
        within += [] if high is None else [logit < high]
        bins.append(sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*within), 1), else_=0)), 0))
    query = sa.select(*bins).where(logit.is_not(None), newest.c.model_version == model_version)
    return [int(count) for count in tx.conn.execute(query).one()]
