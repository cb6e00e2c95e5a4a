"""Withdrawing a study's reports: which objects went where, and the notes that reject them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.engine import Transaction
from db.errors import RevisionChanged
from db.reports import BuiltObject, insert_object
from db.tables import DeliveryState, ObjectKind, objects, outbox, studies


@dataclass(frozen=True, kw_only=True)
class DeliveredObject:
    object_id: int
    kind: str
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Retractable:
    """What may stand at destinations, for each set of objects that some of them share."""

    study_id: int
    retracted_at: datetime | None
    delivered: dict[tuple[DeliveredObject, ...], tuple[str, ...]]
    destinations_by_ids: dict[str, frozenset[int]]


def retractable(tx: Transaction, study_instance_uid: str) -> Retractable | None:
    """Everything of a study that was sent, or that sending was tried of; None: no such study.

    What was named by an earlier rejection note is left out.
    """
    query = sa.select(studies.c.id, studies.c.retracted_at).where(
        studies.c.study_instance_uid == study_instance_uid
    )
    study = tx.conn.execute(query).one_or_none()
    if study is None:
        return None
    by_destination = _tried(tx, study.id)
    ids = {id_ for found in by_destination.values() for id_ in found}
    rows = tx.conn.execute(
        sa.select(objects.c.id, objects.c.kind, objects.c.payload).where(objects.c.id.in_(ids))
    )
    made = {
        row.id: DeliveredObject(object_id=row.id, kind=row.kind, payload=row.payload)
        for row in rows
    }
    shared: dict[frozenset[int], list[str]] = {}
    for destination, found in by_destination.items():
        shared.setdefault(found, []).append(destination)
    return Retractable(
        study_id=study.id,
        retracted_at=study.retracted_at,
        delivered={
            tuple(made[id_] for id_ in sorted(found)): tuple(sorted(names))
            for found, names in shared.items()
        },
        destinations_by_ids=by_destination,
    )


def retract(tx: Transaction, found: Retractable, notes: Sequence[BuiltObject]) -> None:
    """Mark a study as withdrawn, drop what no destination has seen, and queue the notes.

    Raises RevisionChanged if something was delivered, or the study erased, since `found` was read.
    """
    query = sa.select(studies.c.id).where(studies.c.id == found.study_id).with_for_update()
    if tx.conn.execute(query).one_or_none() is None:
        raise RevisionChanged("retract: the study is gone")
    untried = sa.and_(
        outbox.c.study_id == found.study_id,
        outbox.c.state == DeliveryState.PENDING,
        outbox.c.attempts == 0,
        outbox.c.sent_at.is_(None),
        outbox.c.object_id.not_in(
            sa.select(objects.c.id).where(objects.c.kind == ObjectKind.REJECTION)
        ),
    )
    tx.conn.execute(sa.delete(outbox).where(untried))
    if _tried(tx, found.study_id) != found.destinations_by_ids:
        raise RevisionChanged("retract: a delivery came in between")
    tx.conn.execute(
        sa.update(studies).where(studies.c.id == found.study_id).values(retracted_at=tx.now)
    )
    for note in notes:
        insert_object(tx, found.study_id, None, note)


def is_withdrawn() -> sa.ColumnElement[bool]:
    """Of a row of the outbox: whether it holds what must not be sent (again).

    Its study is withdrawn, or a rejection note for the same destination was made after it.
    """
    notes = objects.alias("notes")
    later = outbox.alias("later")
    is_note = sa.exists().where(
        notes.c.id == outbox.c.object_id, notes.c.kind == ObjectKind.REJECTION
    )
    study = studies.alias("withdrawn")
    of_withdrawn = sa.exists().where(
        study.c.id == outbox.c.study_id, study.c.retracted_at.is_not(None)
    )
    is_named = sa.exists().where(
        later.c.study_id == outbox.c.study_id,
        later.c.destination == outbox.c.destination,
        later.c.id > outbox.c.id,
        notes.c.id == later.c.object_id,
        notes.c.kind == ObjectKind.REJECTION,
    )
    return sa.and_(~is_note, sa.or_(of_withdrawn, is_named))


def _tried(tx: Transaction, study_id: int) -> dict[str, frozenset[int]]:
    """Objects that a destination may hold, since its last rejection note, by destination."""
    query = (
        sa.select(
            outbox.c.id,
            outbox.c.destination,
            outbox.c.object_id,
            outbox.c.state,
            outbox.c.attempts,
            outbox.c.sent_at,
            objects.c.kind,
        )
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.study_id == study_id)
        .order_by(outbox.c.id)
    )
    found: dict[str, set[int]] = {}
    for row in tx.conn.execute(query):
        if row.kind == ObjectKind.REJECTION:
            found.pop(row.destination, None)
        elif row.state != DeliveryState.PENDING or row.attempts > 0 or row.sent_at is not None:
            found.setdefault(row.destination, set()).add(row.object_id)
    return {destination: frozenset(ids) for destination, ids in found.items()}
