"""What the deliver stage reads and writes: the outbox, one row per object and destination."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from db.claims import DELIVER, Claim, complete, release
from db.engine import Transaction
from db.tables import DeliveryState, objects, outbox, studies


@dataclass(frozen=True, kw_only=True)
class DueDelivery:
    held: Claim
    created_at: datetime
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    payload: bytes  # a Part 10 file


def due_deliveries(tx: Transaction, claims: list[Claim]) -> list[DueDelivery]:
    """The objects of claimed outbox rows, in the order of the claims."""
    query = (
        sa.select(
            outbox.c.id,
            outbox.c.created_at,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            objects.c.transfer_syntax_uid,
            objects.c.payload,
        )
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.id.in_([held.id for held in claims]))
    )
    rows = {row.id: row for row in tx.conn.execute(query)}
    return [
        DueDelivery(
            held=held,
            created_at=rows[held.id].created_at,
            sop_class_uid=rows[held.id].sop_class_uid,
            sop_instance_uid=rows[held.id].sop_instance_uid,
            transfer_syntax_uid=rows[held.id].transfer_syntax_uid,
            payload=rows[held.id].payload,
        )
        for held in claims
    ]


def record_sent(tx: Transaction, held: Claim) -> None:
    """Write that a destination answered Success; raises LeaseLost."""
    complete(tx, DELIVER, held, {"state": DeliveryState.SENT, "sent_at": tx.now})
    study_id = sa.select(outbox.c.study_id).where(outbox.c.id == held.id).scalar_subquery()
    undelivered = sa.exists().where(
        outbox.c.study_id == studies.c.id, outbox.c.state == DeliveryState.PENDING
    )
    tx.conn.execute(
        sa.update(studies).where(studies.c.id == study_id, ~undelivered).values(delivered_at=tx.now)
    )


def record_delivery_failure(tx: Transaction, held: Claim, error: str) -> None:
    """Give a delivery up; `retry` starts it anew. Raises LeaseLost."""
    complete(tx, DELIVER, held, {"state": DeliveryState.FAILED, "error": error})


def postpone(tx: Transaction, held: Claim, *, error: str, retry_in_s: float) -> None:
    """Try one object again later; raises LeaseLost."""
    release(tx, DELIVER, held, error=error, retry_in_s=retry_in_s)


def postpone_destination(
    tx: Transaction, destination: str, *, error: str, retry_in_s: float
) -> None:
    """A destination that cannot be reached: nothing that waits for it is tried for a while."""
    due_at = tx.now + timedelta(seconds=retry_in_s)
    tx.conn.execute(
        sa.update(outbox)
        .where(
            outbox.c.destination == destination,
            outbox.c.state == DeliveryState.PENDING,
            outbox.c.due_at < due_at,
        )
        .values(due_at=due_at, error=error)
    )
