"""The files and objects behind a result: what a viewer of results opens."""

from dataclasses import dataclass

import sqlalchemy as sa

from db.engine import Transaction
from db.tables import ObjectKind, instances, objects, studies


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object that we made: a Part 10 file."""

    sop_instance_uid: str
    payload: bytes


def spool_name_of_image(tx: Transaction, sop_instance_uid: str) -> str | None:
    """Where the spool keeps an image; None if it is unknown or no image."""
    query = sa.select(instances.c.spool_name).where(
        instances.c.sop_instance_uid == sop_instance_uid, instances.c.is_image
    )
    name: str | None = tx.conn.execute(query).scalar_one_or_none()
    return name


def newest_report(tx: Transaction, study_instance_uid: str) -> StoredObject | None:
    """A study's newest Structured Report, as it is sent."""
    found = _objects(tx, study_instance_uid, ObjectKind.SR, limit=1)
    return found[0] if found else None


def saliency_images(tx: Transaction, study_instance_uid: str, *, limit: int) -> list[StoredObject]:
    """A study's saliency images, the newest first."""
    return _objects(tx, study_instance_uid, ObjectKind.SALIENCY, limit=limit)


def _objects(
    tx: Transaction, study_instance_uid: str, kind: ObjectKind, *, limit: int
) -> list[StoredObject]:
    query = (
        sa.select(objects.c.sop_instance_uid, objects.c.payload)
        .join(studies, studies.c.id == objects.c.study_id)
        .where(
            studies.c.study_instance_uid == study_instance_uid,
            objects.c.kind == kind,
            objects.c.converted_from_id.is_(None),
        )
        .order_by(objects.c.id.desc())
        .limit(limit)
    )
    return [
        StoredObject(sop_instance_uid=row.sop_instance_uid, payload=row.payload)
        for row in tx.conn.execute(query)
    ]
