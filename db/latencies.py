"""How long the stages took, counted into buckets: of what ended within a span of time.

Each look reads what ended since the one before it, by an index on when it ended, so its cost does
not grow with the database. Work on backlog and what is analysed again by `reprocess` waits behind
live work by design and is not counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from db.engine import Transaction
from db.tables import ObjectKind, instances, objects, outbox, reports, studies

Ended = Callable[[sa.ColumnElement[Any]], sa.ColumnElement[bool]]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Durations in buckets. within: how many were no longer than each bound, ascending."""

    within: tuple[int, ...]
    count: int
    sum_s: float

    def __add__(self, other: "Counted") -> "Counted":
        pairs = zip(self.within, other.within, strict=True)
        return Counted(
            within=tuple(mine + theirs for mine, theirs in pairs),
            count=self.count + other.count,
            sum_s=self.sum_s + other.sum_s,
        )


def nothing(bounds_s: Sequence[float]) -> Counted:
    return Counted(within=(0,) * len(bounds_s), count=0, sum_s=0.0)


def count_stages(
    tx: Transaction, bounds_s: Sequence[float], *, since: datetime, until: datetime
) -> dict[str, Counted]:
    """Of each stage, what ended after `since` and not after `until`."""
    return {
        stage: _count(tx, durations, bounds_s, since, until) for stage, durations in _STAGES.items()
    }


def count_turnaround(
    tx: Transaction, bounds_s: Sequence[float], *, since: datetime, until: datetime
) -> Counted:
    """From a study's last image to its report at a destination, of what arrived in the span."""
    return _count(tx, _turnaround, bounds_s, since, until)


def _count(
    tx: Transaction,
    durations: Callable[[Ended], sa.Select[Any]],
    bounds_s: Sequence[float],
    since: datetime,
    until: datetime,
) -> Counted:
    found = durations(lambda column: sa.and_(column > since, column <= until)).subquery()
    (taken,) = found.c
    within = [sa.func.count(sa.case((taken <= bound, 1))) for bound in bounds_s]
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(taken), 0.0), *within)
    # A clock that was set back makes some negative: they tell nothing.
    count, sum_s, *counts = tx.conn.execute(query.where(taken >= 0)).one()
    return Counted(within=tuple(counts), count=count, sum_s=float(sum_s))


def _store(ended: Ended) -> sa.Select[Any]:
    """From a whole data set in its temporary file to its row; the commit comes after."""
    return sa.select(instances.c.store_s).where(
        ended(instances.c.received_at), instances.c.store_s.is_not(None)
    )


def _prepare(ended: Ended) -> sa.Select[Any]:
    return _of_predicted(ended, _Seconds(instances.c.received_at, instances.c.prepared_at))


def _infer(ended: Ended) -> sa.Select[Any]:
    return _of_predicted(ended, _Seconds(instances.c.prepared_at, instances.c.predicted_at))


def _of_predicted(ended: Ended, taken: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Not by state, as its index would have to be looked through as a whole."""
    return sa.select(taken).where(
        ended(instances.c.finished_at),
        instances.c.predicted_at == instances.c.finished_at,
        ~instances.c.backlog,
    )


def _report(ended: Ended) -> sa.Select[Any]:
    """From a study's last outcome: the rest of its settle time included."""
    last = (
        sa.select(sa.func.max(instances.c.finished_at))
        .where(
            instances.c.study_id == reports.c.study_id,
            instances.c.finished_at <= reports.c.created_at,
        )
        .scalar_subquery()
    )
    return sa.select(_Seconds(last, reports.c.created_at)).where(
        ended(reports.c.created_at), _is_live(reports.c.study_id)
    )


def _deliver(ended: Ended) -> sa.Select[Any]:
    """From the moment an object was queued for a destination until that has it."""
    return sa.select(_Seconds(outbox.c.created_at, outbox.c.sent_at)).where(ended(outbox.c.sent_at))


def _turnaround(ended: Ended) -> sa.Select[Any]:
    return (
        sa.select(_Seconds(studies.c.last_arrival_at, outbox.c.sent_at))
        .join(objects, objects.c.id == outbox.c.object_id)
        .join(reports, reports.c.id == objects.c.report_id)
        .join(studies, studies.c.id == outbox.c.study_id)
        .where(
            ended(outbox.c.sent_at),
            objects.c.kind.in_([ObjectKind.SR, ObjectKind.MESSAGE]),
            studies.c.last_arrival_at <= reports.c.created_at,  # else another report will follow
            _is_live(outbox.c.study_id),
        )
    )


_STAGES: dict[str, Callable[[Ended], sa.Select[Any]]] = {
    "store": _store,
    "prepare": _prepare,
    "infer": _infer,
    "report": _report,
    "deliver": _deliver,
}
STAGES = tuple(_STAGES)


def _is_live(study_id: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        instances.c.study_id == study_id, instances.c.is_image, ~instances.c.backlog
    )


class _Seconds(FunctionElement[float]):
    """Seconds from one time to another, in either database's words."""

    type = sa.Float()
    inherit_cache = True
    name = "seconds"


@compiles(_Seconds, "sqlite")
def _seconds_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(it, **options) for it in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(_Seconds, "postgresql")
def _seconds_in_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(it, **options) for it in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM {end} - {start}) AS DOUBLE PRECISION)"
