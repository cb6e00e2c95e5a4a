"""Destinations: who delivers to one now, and holding its deliveries and letting them go."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from db.engine import Transaction
from db.tables import destinations, outbox

BY_COMMAND = "command"
BY_SETTINGS = "settings"


@dataclass(frozen=True, kw_only=True)
class Hold:
    held_at: datetime
    held_by: str


def lock_destination(tx: Transaction, name: str) -> None:
    """Make others who ask for the same wait until this transaction ends."""
    _make(tx, name)
    query = sa.select(destinations.c.name).where(destinations.c.name == name)
    tx.conn.execute(query.with_for_update()).one()


def engage(tx: Transaction, name: str, *, for_s: float) -> datetime | None:
    """Be the one who delivers to a destination: until when; None if another worker is."""
    lock_destination(tx, name)
    update = sa.update(destinations).where(
        destinations.c.name == name,
        sa.or_(destinations.c.busy_until.is_(None), destinations.c.busy_until <= tx.now),
    )
    until = tx.now + timedelta(seconds=for_s)
    return until if tx.conn.execute(update.values(busy_until=until)).rowcount == 1 else None


def disengage(tx: Transaction, name: str, until: datetime) -> None:
    """Leave a destination to others; nothing, if another is at it by now."""
    update = sa.update(destinations).where(
        destinations.c.name == name, destinations.c.busy_until == until
    )
    tx.conn.execute(update.values(busy_until=None))


def hold(tx: Transaction, name: str, *, held_by: str = BY_COMMAND) -> bool:
    """Stop deliveries to a destination; False if they were stopped already."""
    _make(tx, name)
    update = sa.update(destinations).where(
        destinations.c.name == name, destinations.c.held_at.is_(None)
    )
    return tx.conn.execute(update.values(held_at=tx.now, held_by=held_by)).rowcount == 1


def release(tx: Transaction, name: str) -> bool:
    """Let deliveries go again, and at once; False if they were not stopped."""
    update = sa.update(destinations).where(
        destinations.c.name == name, destinations.c.held_at.is_not(None)
    )
    if tx.conn.execute(update.values(held_at=None, held_by=None)).rowcount != 1:
        return False
    tx.conn.execute(
        sa.update(outbox)
        .where(
            outbox.c.destination == name,
            outbox.c.due_at > tx.now,
            outbox.c.lease_token.is_(None),
        )
        .values(due_at=tx.now)
    )
    return True


def holds(tx: Transaction) -> dict[str, Hold]:
    """Every destination that is held, and by whom."""
    rows = tx.conn.execute(sa.select(destinations).where(destinations.c.held_at.is_not(None)))
    return {row.name: Hold(held_at=row.held_at, held_by=row.held_by) for row in rows}


def apply_settings(tx: Transaction, held: Collection[str]) -> None:
    """Hold what the settings hold, and release what they held and hold no longer."""
    for name, found in holds(tx).items():
        if found.held_by == BY_SETTINGS and name not in held:
            release(tx, name)
    for name in held:
        hold(tx, name, held_by=BY_SETTINGS)


def _make(tx: Transaction, name: str) -> None:
    dialect = sqlite if tx.conn.dialect.name == "sqlite" else postgresql
    tx.conn.execute(dialect.insert(destinations).values(name=name).on_conflict_do_nothing())
