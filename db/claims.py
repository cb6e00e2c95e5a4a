"""Claiming rows: the one mechanism behind retry, deadline, poison and restart.

A claim counts the attempt *before* the work runs, gives the row a fresh lease token and moves
`due_at` to the end of the lease. Whoever holds the token may complete the row; when the lease
runs out the row is simply due again, and its next claim replaces the token.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from db.engine import Transaction
from db.errors import LeaseLost
from db.tables import DeliveryState, InstanceState, destinations, instances, outbox, studies


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Which rows of which table wait for one kind of work, and how one is named."""

    name: str
    table: sa.Table
    key: sa.Column[Any]  # what a message names
    waiting: sa.ColumnElement[bool]
    order: tuple[sa.Column[Any], ...]
    since: sa.Column[Any]  # when a row came
    state: str | None = None  # of the rows that wait, where that tells them


def _instance_stage(name: str, state: InstanceState) -> Stage:
    return Stage(
        name=name,
        table=instances,
        key=instances.c.sop_instance_uid,
        waiting=instances.c.state == state,
        order=(instances.c.backlog, instances.c.due_at, instances.c.id),
        since=instances.c.received_at,
        state=state,
    )


PREPARE = _instance_stage("prepare", InstanceState.RECEIVED)
INFER = _instance_stage("infer", InstanceState.PREPARED)
REPORT = Stage(
    name="report",
    table=studies,
    key=studies.c.study_instance_uid,
    waiting=studies.c.pending_count == 0,
    order=(studies.c.backlog, studies.c.due_at, studies.c.id),
    since=studies.c.last_arrival_at,
)


def _never(asked: sa.Exists) -> sa.ColumnElement[bool]:
    """NOT EXISTS for each row of the outbox by itself, by index.

    As an anti join PostgreSQL would first make it for all rows, and then take the few asked for.
    """
    each = sa.select(asked.correlate(outbox)).correlate(outbox)
    return each.scalar_subquery() == sa.false()


_is_held = sa.exists().where(
    destinations.c.name == outbox.c.destination, destinations.c.held_at.is_not(None)
)
_earlier = outbox.alias("earlier")
DELIVER = Stage(
    name="deliver",
    table=outbox,
    key=outbox.c.destination,
    waiting=sa.and_(
        outbox.c.state == DeliveryState.PENDING,
        _never(_is_held),
        # Per destination and study, objects leave in the order in which they were made: together,
        # but not while an earlier one waits for another try.
        _never(
            sa.exists().where(
                _earlier.c.study_id == outbox.c.study_id,
                _earlier.c.destination == outbox.c.destination,
                _earlier.c.state == DeliveryState.PENDING,
                _earlier.c.id < outbox.c.id,
                _earlier.c.due_at > outbox.c.due_at,
            )
        ),
    ),
    order=(outbox.c.due_at, outbox.c.id),
    since=outbox.c.created_at,
    state=DeliveryState.PENDING,
)
# Sent, and the destination is to be asked whether it answers for it; without that never due.
COMMIT = Stage(
    name="commit",
    table=outbox,
    key=outbox.c.destination,
    waiting=sa.and_(outbox.c.state == DeliveryState.SENT, _never(_is_held)),
    order=(outbox.c.due_at, outbox.c.id),
    since=outbox.c.created_at,
    state=DeliveryState.SENT,
)
STAGES = (PREPARE, INFER, REPORT, DELIVER, COMMIT)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to complete one row until the lease runs out."""

    id: int
    token: str
    attempts: int  # counting this one
    error: str | None  # how the attempt before it ended, if it said so


def claim(
    tx: Transaction,
    stage: Stage,
    *,
    limit: int,
    lease_s: float,
    first: str | None = None,
    untried_only: bool = False,
) -> list[Claim]:
    """Claim up to `limit` due rows of a stage, the row named by `first` before all others.

    A row that has been tried before is claimed alone: should it be what kills its worker,
    it takes no innocent row with it.
    """
    chosen: list[int] = []
    if first is not None:
        chosen = _select(tx, stage, limit=1, extra=stage.key == first)
    if len(chosen) < limit:
        untried = stage.table.c.attempts == 0
        fresh = sa.and_(untried, stage.table.c.id.not_in(chosen)) if chosen else untried
        chosen += _select(tx, stage, limit=limit - len(chosen), extra=fresh)
    if not chosen and not untried_only:
        chosen = _select(tx, stage, limit=1)
    return _lease(tx, stage, _without_companions_of_the_retried(tx, stage, chosen), lease_s)


def claim_for(
    tx: Transaction, stage: Stage, key: str, *, limit: int, lease_s: float
) -> list[Claim]:
    """Claim up to `limit` due rows that share one key, such as a destination."""
    return _lease(tx, stage, _select(tx, stage, limit=limit, extra=stage.key == key), lease_s)


def complete(tx: Transaction, stage: Stage, held: Claim, values: dict[str, Any]) -> None:
    """Write the outcome of a claimed row and end the lease; raises LeaseLost if it is gone."""
    outcome = {"lease_token": None, "error": None, "due_at": None} | values
    _update_held(tx, stage, held, outcome)


def release(
    tx: Transaction, stage: Stage, held: Claim, *, error: str | None, retry_in_s: float
) -> None:
    """Give a claimed row back, to be tried again after a while; raises LeaseLost."""
    due_at = tx.now + timedelta(seconds=retry_in_s)
    _update_held(tx, stage, held, {"lease_token": None, "error": error, "due_at": due_at})


def hand_back(
    tx: Transaction,
    stage: Stage,
    held: Claim,
    *,
    error: str | None = None,
    retry_in_s: float = 0.0,
    younger_than: timedelta = timedelta.max,
) -> None:
    """Give a claimed row back as if this claim had not been: what ended it is not the row's fault.

    younger_than: of a row that came longer ago, the attempt counts. Raises LeaseLost.
    """
    query = sa.select(stage.since).where(stage.table.c.id == held.id)
    came_at = tx.conn.execute(query).scalar_one_or_none()
    is_young = came_at is not None and tx.now - came_at < younger_than
    due_at = tx.now + timedelta(seconds=retry_in_s)
    values = {"lease_token": None, "error": error, "due_at": due_at}
    _update_held(tx, stage, held, values | {"attempts": held.attempts - is_young})


def due_keys(tx: Transaction, stage: Stage, *, limit: int) -> list[str]:
    """The keys of rows of an instance or study that are due now, the most urgent first."""
    query = sa.select(stage.key).where(stage.waiting, stage.table.c.due_at <= tx.now).limit(limit)
    return list(tx.conn.execute(query.order_by(*stage.order)).scalars())


def due_destinations(tx: Transaction, stage: Stage) -> list[str]:
    """Destinations that something of DELIVER or COMMIT is due for, the most urgent first.

    Without those that are held, or that a worker is at, who looks for more at the end. However
    much waits for one of them, another is found by its name in the index.
    """
    of_stage = outbox.c.state == stage.state
    names = sa.select(sa.func.min(outbox.c.destination).label("name")).where(of_stage)
    found = names.cte("names", recursive=True)
    after = sa.select(sa.func.min(outbox.c.destination)).where(
        of_stage, outbox.c.destination > found.c.name
    )
    found = found.union_all(
        sa.select(after.scalar_subquery()).where(found.c.name.is_not(None)).select_from(found)
    )
    due_at = (
        sa.select(outbox.c.due_at)
        .where(stage.waiting, outbox.c.due_at <= tx.now, outbox.c.destination == found.c.name)
        .order_by(outbox.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    is_left_alone = sa.exists().where(
        destinations.c.name == found.c.name,
        sa.or_(destinations.c.held_at.is_not(None), destinations.c.busy_until > tx.now),
    )
    query = sa.select(found.c.name, due_at.label("due_at")).where(
        found.c.name.is_not(None), ~is_left_alone
    )
    rows = [row for row in tx.conn.execute(query) if row.due_at is not None]
    return [row.name for row in sorted(rows, key=lambda row: row.due_at)]


def make_all_due(tx: Transaction) -> int:
    """Make due what waits for a later time, for when the clock was set back; returns how many.

    Harmless, only early: a lease that ends too soon costs its work a second try.
    """
    ahead = destinations.c.busy_until > tx.now
    tx.conn.execute(sa.update(destinations).where(ahead).values(busy_until=None))
    return sum(
        tx.conn.execute(
            sa.update(table).where(table.c.due_at > tx.now).values(due_at=tx.now)
        ).rowcount
        for table in (instances, studies, outbox)
    )


def _select(
    tx: Transaction, stage: Stage, *, limit: int, extra: sa.ColumnElement[bool] | None = None
) -> list[int]:
    query = sa.select(stage.table.c.id).where(stage.waiting, stage.table.c.due_at <= tx.now)
    if extra is not None:
        query = query.where(extra)
    query = query.order_by(*stage.order).limit(limit)
    query = query.with_for_update(skip_locked=True, of=stage.table)  # SQLite leaves this out
    return list(tx.conn.execute(query).scalars())


def _without_companions_of_the_retried(
    tx: Transaction, stage: Stage, ids: Sequence[int]
) -> list[int]:
    if len(ids) < 2:  # noqa: PLR2004
        return list(ids)
    attempts = sa.select(stage.table.c.attempts).where(stage.table.c.id == ids[0])
    return list(ids) if tx.conn.execute(attempts).scalar_one() == 0 else [ids[0]]


def _lease(tx: Transaction, stage: Stage, ids: Sequence[int], lease_s: float) -> list[Claim]:
    if not ids:
        return []
    table = stage.table
    token = secrets.token_hex(16)
    update = (
        sa.update(table)
        .where(table.c.id.in_(ids))
        .values(
            attempts=table.c.attempts + 1,
            lease_token=token,
            due_at=tx.now + timedelta(seconds=lease_s),
        )
        .returning(table.c.id, table.c.attempts, table.c.error)
    )
    claims = {
        row.id: Claim(id=row.id, token=token, attempts=row.attempts, error=row.error)
        for row in tx.conn.execute(update)
    }
    return [claims[id_] for id_ in ids]


# Built once: for a batch of rows, building the statement costs more than running it.
_UPDATE_HELD = {
    table.name: sa.update(table).where(
        table.c.id == sa.bindparam("held_id"), table.c.lease_token == sa.bindparam("held_token")
    )
    for table in (instances, studies, outbox)
}


def _update_held(tx: Transaction, stage: Stage, held: Claim, values: dict[str, Any]) -> None:
    update = _UPDATE_HELD[stage.table.name]
    parameters = {**values, "held_id": held.id, "held_token": held.token}
    if tx.conn.execute(update, parameters).rowcount != 1:
        raise LeaseLost(f"{stage.name}: the lease on row {held.id} is over")
