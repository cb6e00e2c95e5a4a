"""Erasing a study: its rows, and the list of files that are to go after them.

The rows go first, in one transaction that leaves the names of the files: a file without a row
would otherwise be adopted as one whose row was lost. Whoever is then killed leaves files that
the listener sweeps.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from db.engine import Transaction
from db.tables import (
    DeliveryState,
    ObjectKind,
    comparisons,
    conflicts,
    erased_files,
    erasures,
    feedback,
    instances,
    objects,
    outbox,
    pixels,
    reports,
    studies,
)

SWEPT_AT_ONCE = 1000
_DELIVERED = (DeliveryState.SENT, DeliveryState.COMMITTED)


@dataclass(frozen=True, kw_only=True)
class Erasable:
    """How much there is of a study. delivered: destination, and how many objects it was sent."""

    instance_count: int
    object_count: int
    delivery_count: int
    file_count: int
    delivered: dict[str, int]
    retracted: bool
    notes_waiting: tuple[str, ...]  # destinations whose rejection note has not been sent yet


def erasable(tx: Transaction, study_instance_uid: str) -> Erasable | None:
    """What `erase` would erase; None if there is no such study."""
    query = sa.select(studies.c.id, studies.c.retracted_at).where(
        studies.c.study_instance_uid == study_instance_uid
    )
    study = tx.conn.execute(query).one_or_none()
    if study is None:
        return None
    sent = (
        sa.select(outbox.c.destination, sa.func.count().label("deliveries"))
        .where(outbox.c.study_id == study.id, outbox.c.state.in_(_DELIVERED))
        .group_by(outbox.c.destination)
        .order_by(outbox.c.destination)
    )
    notes = (
        sa.select(outbox.c.destination)
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(
            outbox.c.study_id == study.id,
            outbox.c.state.not_in(_DELIVERED),
            objects.c.kind == ObjectKind.REJECTION,
        )
        .distinct()
        .order_by(outbox.c.destination)
    )
    return Erasable(
        instance_count=_count(tx, instances, study.id),
        object_count=_count(tx, objects, study.id),
        delivery_count=_count(tx, outbox, study.id),
        file_count=len(_spool_names(tx, study.id)),
        delivered={row.destination: row.deliveries for row in tx.conn.execute(sent)},
        retracted=study.retracted_at is not None,
        notes_waiting=tuple(tx.conn.execute(notes).scalars()),
    )


def erase(tx: Transaction, study_instance_uid: str, *, erased_by: str) -> list[str] | None:
    """Erase every row of a study and write who did; returns the spool files that must go now.

    None if there is no such study.
    """
    if tx.conn.dialect.name == "sqlite":  # overwrite what is deleted
        tx.conn.exec_driver_sql("PRAGMA secure_delete = ON")
    query = sa.select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid)
    # First the instances, then the study: the order in which workers lock them too.
    own = sa.select(instances.c.id).where(instances.c.study_id == query.scalar_subquery())
    tx.conn.execute(own.order_by(instances.c.id).with_for_update()).all()
    id_ = tx.conn.execute(query.with_for_update()).scalar_one_or_none()
    found = erasable(tx, study_instance_uid)
    if id_ is None or found is None:
        return None
    names = _spool_names(tx, id_)
    tx.conn.execute(sa.delete(outbox).where(outbox.c.study_id == id_))
    converted = objects.c.converted_from_id.is_not(None)
    tx.conn.execute(sa.delete(objects).where(objects.c.study_id == id_, converted))
    for table in (objects, reports, feedback):
        tx.conn.execute(sa.delete(table).where(table.c.study_id == id_))
    for table in (comparisons, conflicts, pixels):
        tx.conn.execute(sa.delete(table).where(table.c.instance_id.in_(own)))
    tx.conn.execute(sa.delete(instances).where(instances.c.study_id == id_))
    tx.conn.execute(sa.delete(studies).where(studies.c.id == id_))
    if names:
        rows = [{"spool_name": name} for name in names]
        tx.conn.execute(sa.insert(erased_files), rows)
    tx.conn.execute(
        sa.insert(erasures).values(
            study_instance_uid=study_instance_uid,
            erased_at=tx.now,
            erased_by=erased_by,
            instance_count=found.instance_count,
            object_count=found.object_count,
            delivery_count=found.delivery_count,
            delivered_count=sum(found.delivered.values()),
            file_count=len(names),
        )
    )
    return names


def files_to_remove(tx: Transaction) -> list[str]:
    """Names of erased files that may still be there."""
    query = sa.select(erased_files.c.spool_name).limit(SWEPT_AT_ONCE)
    return list(tx.conn.execute(query).scalars())


def record_removed(tx: Transaction, names: list[str]) -> None:
    tx.conn.execute(sa.delete(erased_files).where(erased_files.c.spool_name.in_(names)))


def _spool_names(tx: Transaction, study_id: int) -> list[str]:
    of_study = instances.c.study_id == study_id
    first = sa.select(instances.c.spool_name).where(of_study)
    beside = sa.select(conflicts.c.spool_name).where(
        conflicts.c.instance_id.in_(sa.select(instances.c.id).where(of_study))
    )
    return sorted({*tx.conn.execute(first).scalars(), *tx.conn.execute(beside).scalars()})


def _count(tx: Transaction, table: sa.Table, study_id: int) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.study_id == study_id)
    return int(tx.conn.execute(query).scalar_one())
