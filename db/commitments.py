"""Storage commitment: rows that were sent, until the destination answers for them.

A row in state `sent` that is due is to be asked about. Asking gives it a transaction UID and
moves `due_at` to when the answer is overdue, in one transaction, before the request leaves: the
answer may be faster than whoever asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from db.claims import COMMIT, Claim, claim_for, complete, release
from db.deliveries import MadeObject
from db.destinations import lock_destination
from db.engine import Transaction
from db.tables import DeliveryState, objects, outbox


@dataclass(frozen=True, kw_only=True)
class DueCommitment:
    held: Claim
    sent_at: datetime
    sent: MadeObject


def claim_due(
    tx: Transaction,
    destination: str,
    transaction_uid: str,
    *,
    limit: int,
    overdue_in_s: Callable[[int], float],
) -> list[DueCommitment]:
    """Claim what a destination is to be asked about, under a new transaction UID.

    overdue_in_s: how long to wait for the answer to the first, second, … request.
    """
    lock_destination(tx, destination)
    claims = claim_for(tx, COMMIT, destination, limit=limit, lease_s=0)
    ids = [held.id for held in claims]
    for attempts in {held.attempts for held in claims}:
        due_at = tx.now + timedelta(seconds=overdue_in_s(attempts))
        tx.conn.execute(
            sa.update(outbox)
            .where(outbox.c.id.in_(ids), outbox.c.attempts == attempts)
            .values(transaction_uid=transaction_uid, due_at=due_at)
        )
    query = (
        sa.select(
            outbox.c.id,
            outbox.c.sent_at,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
        )
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.id.in_(ids))
    )
    rows = {row.id: row for row in tx.conn.execute(query)}
    return [
        DueCommitment(
            held=held,
            sent_at=rows[held.id].sent_at,
            sent=MadeObject(
                sop_class_uid=rows[held.id].sop_class_uid,
                sop_instance_uid=rows[held.id].sop_instance_uid,
            ),
        )
        for held in claims
    ]


def ask_again(tx: Transaction, held: Claim, *, error: str, retry_in_s: float) -> None:
    """The request did not get through: ask once more, after a while; raises LeaseLost."""
    release(tx, COMMIT, held, error=error, retry_in_s=retry_in_s)


def record_unanswered(tx: Transaction, held: Claim, error: str) -> None:
    """Give up asking: whether the object is there is not known. Raises LeaseLost."""
    values = {"state": DeliveryState.FAILED, "error": error, "failed_at": tx.now}
    complete(tx, COMMIT, held, values)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one report: rows that it moved."""

    known: bool  # whether anybody asked under that transaction UID
    committed: int = 0
    to_be_sent_again: int = 0
    given_up: int = 0


def record_answer(
    tx: Transaction,
    transaction_uid: str,
    committed: frozenset[str],
    failed: Mapping[str, str],
    *,
    refusals_max: int,
    retry_in_s: float,
) -> Answer:
    """Write what a destination said of the objects it was asked about.

    committed: SOP Instance UIDs that it answers for. failed: those that it does not, with the
    reasons; they are sent again after a while, but no more than `refusals_max` times in all.
    """
    query = (
        sa.select(outbox.c.id, outbox.c.state, outbox.c.refusals, objects.c.sop_instance_uid)
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.transaction_uid == transaction_uid)
        .with_for_update(of=outbox)
    )
    rows = tx.conn.execute(query).all()
    counts = {"committed": 0, "to_be_sent_again": 0, "given_up": 0}
    for row in rows:
        if row.state != DeliveryState.SENT:  # the same report, once more
            continue
        if row.sop_instance_uid in committed:
            counts["committed"] += 1
            values = {"state": DeliveryState.COMMITTED, "committed_at": tx.now, "error": None,
                      "due_at": None}  # fmt: skip
        elif row.sop_instance_uid in failed:
            give_up = row.refusals + 1 >= refusals_max
            counts["given_up" if give_up else "to_be_sent_again"] += 1
            values = {
                "state": DeliveryState.FAILED if give_up else DeliveryState.PENDING,
                "failed_at": tx.now if give_up else None,
                "due_at": None if give_up else tx.now + timedelta(seconds=retry_in_s),
                "error": f"not committed: {failed[row.sop_instance_uid]}",
                "refusals": row.refusals + 1,
                "attempts": 0,
            }
        else:  # not spoken of: asked about again when the answer is overdue
            continue
        update = sa.update(outbox).where(outbox.c.id == row.id)
        tx.conn.execute(update.values(lease_token=None, **values))
    return Answer(known=bool(rows), **counts)
