"""What the deliver stage reads and writes: the outbox, one row per object and destination."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db import retractions
from db.claims import DELIVER, Claim, claim_for, complete, release
from db.destinations import lock_destination
from db.engine import Transaction
from db.reports import BuiltObject, insert_object
from db.tables import DeliveryState, ObjectKind, objects, outbox, reports, studies


@dataclass(frozen=True, kw_only=True)
class DueDelivery:
    """One object that waits for one destination; `payload` reads its bytes."""

    held: Claim
    created_at: datetime
    study_id: int
    study_instance_uid: str
    patient_id: str | None
    refusals: int  # before this attempt
    object_id: int
    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, kw_only=True)
class MadeObject:
    """What another object says of one of ours to name it."""

    sop_class_uid: str
    sop_instance_uid: str


def claim_due(tx: Transaction, destination: str, *, limit: int, lease_s: float) -> list[Claim]:
    """Claim what is due for a destination; claims of one destination take turns.

    Without turns, a second worker could take a study's later object while the first has just
    taken the earlier one.
    """
    lock_destination(tx, destination)
    return claim_for(tx, DELIVER, destination, limit=limit, lease_s=lease_s)


def due_deliveries(tx: Transaction, claims: list[Claim]) -> list[DueDelivery]:
    """What claimed outbox rows are about, in the order of the claims."""
    query = (
        sa.select(
            outbox.c.id,
            outbox.c.created_at,
            outbox.c.study_id,
            studies.c.study_instance_uid,
            studies.c.patient_id,
            outbox.c.refusals,
            outbox.c.object_id,
            objects.c.kind,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            objects.c.series_instance_uid,
            objects.c.transfer_syntax_uid,
        )
        .join(objects, objects.c.id == outbox.c.object_id)
        .join(studies, studies.c.id == outbox.c.study_id)
        .where(outbox.c.id.in_([held.id for held in claims]))
    )
    rows = {row.id: row for row in tx.conn.execute(query)}
    return [
        DueDelivery(
            held=held,
            created_at=rows[held.id].created_at,
            study_id=rows[held.id].study_id,
            study_instance_uid=rows[held.id].study_instance_uid,
            patient_id=rows[held.id].patient_id,
            refusals=rows[held.id].refusals,
            object_id=rows[held.id].object_id,
            kind=ObjectKind(rows[held.id].kind),
            sop_class_uid=rows[held.id].sop_class_uid,
            sop_instance_uid=rows[held.id].sop_instance_uid,
            series_instance_uid=rows[held.id].series_instance_uid,
            transfer_syntax_uid=rows[held.id].transfer_syntax_uid,
        )
        for held in claims
    ]


def payload(tx: Transaction, object_id: int) -> bytes | None:
    """An object's Part 10 file; None when its study has been erased."""
    query = sa.select(objects.c.payload).where(objects.c.id == object_id)
    found: bytes | None = tx.conn.execute(query).scalar_one_or_none()
    return found


def converted_predecessors(tx: Transaction, object_id: int, sop_class_uid: str) -> list[MadeObject]:
    """The report before an SR's, as it was said in another SOP class: none if it was not."""
    predecessor = (
        sa.select(reports.c.predecessor_uid)
        .join(objects, objects.c.report_id == reports.c.id)
        .where(objects.c.id == object_id)
        .scalar_subquery()
    )
    original = sa.select(objects.c.id).where(objects.c.sop_instance_uid == predecessor)
    query = sa.select(objects.c.sop_class_uid, objects.c.sop_instance_uid).where(
        objects.c.converted_from_id == original.scalar_subquery(),
        objects.c.sop_class_uid == sop_class_uid,
    )
    return [
        MadeObject(sop_class_uid=row.sop_class_uid, sop_instance_uid=row.sop_instance_uid)
        for row in tx.conn.execute(query)
    ]


def conversion(tx: Transaction, object_id: int, sop_class_uid: str) -> int | None:
    """The id of an object in another SOP class, if that was ever made."""
    query = sa.select(objects.c.id).where(
        objects.c.converted_from_id == object_id, objects.c.sop_class_uid == sop_class_uid
    )
    found: int | None = tx.conn.execute(query).scalar_one_or_none()
    return found


def is_withdrawn(tx: Transaction, delivery: DueDelivery) -> bool:
    """Whether an object must not leave any more; that stays so until the transaction ends."""
    study = sa.select(studies.c.id).where(studies.c.id == delivery.study_id)
    tx.conn.execute(study.with_for_update()).one_or_none()
    row = sa.select(outbox.c.id).where(outbox.c.id == delivery.held.id, retractions.is_withdrawn())
    return tx.conn.execute(row).one_or_none() is not None


def insert_conversion(tx: Transaction, delivery: DueDelivery, made: BuiltObject) -> int:
    """Keep an object in another SOP class, or find the one that was faster; returns its id."""
    # Two destinations may need it at once: they take turns at the object that it is made from.
    query = sa.select(objects.c.report_id).where(objects.c.id == delivery.object_id)
    report_id = tx.conn.execute(query.with_for_update()).scalar_one()
    known = conversion(tx, delivery.object_id, made.sop_class_uid)
    if known is not None:
        return known
    return insert_object(
        tx, delivery.study_id, report_id, made, converted_from_id=delivery.object_id
    )


def deliver_instead(tx: Transaction, held: Claim, object_id: int) -> DueDelivery:
    """Let a claimed row deliver another object from now on; its attempts go on."""
    tx.conn.execute(
        sa.update(outbox)
        .where(outbox.c.id == held.id, outbox.c.lease_token == held.token)
        .values(object_id=object_id)
    )
    return due_deliveries(tx, [held])[0]


def record_sent(tx: Transaction, held: Claim, *, ask_commitment: bool) -> None:
    """Write that a destination answered Success; raises LeaseLost.

    ask_commitment: the destination is to be asked whether it answers for the object.
    """
    values: dict[str, Any] = {"state": DeliveryState.SENT, "sent_at": tx.now}
    if ask_commitment:
        values |= {"due_at": tx.now, "attempts": 0}
    study_id = sa.select(outbox.c.study_id).where(outbox.c.id == held.id).scalar_subquery()
    # First the study, then its deliveries: the order in which `forget` and `retract` lock them.
    tx.conn.execute(sa.select(studies.c.id).where(studies.c.id == study_id).with_for_update()).all()
    complete(tx, DELIVER, held, values)
    undelivered = sa.exists().where(
        outbox.c.study_id == studies.c.id, outbox.c.state == DeliveryState.PENDING
    )
    tx.conn.execute(
        sa.update(studies).where(studies.c.id == study_id, ~undelivered).values(delivered_at=tx.now)
    )


def record_refusal(tx: Transaction, held: Claim) -> None:
    """Count that the destination said no to an object; what follows from it is for others."""
    tx.conn.execute(
        sa.update(outbox)
        .where(outbox.c.id == held.id, outbox.c.lease_token == held.token)
        .values(refusals=outbox.c.refusals + 1)
    )


def record_delivery_failure(tx: Transaction, held: Claim, error: str) -> None:
    """Give a delivery up; `retry` starts it anew. Raises LeaseLost."""
    values = {"state": DeliveryState.FAILED, "error": error, "failed_at": tx.now}
    complete(tx, DELIVER, held, values)


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
