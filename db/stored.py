"""The files and objects behind a result: what a viewer of results opens."""

from dataclasses import dataclass

import sqlalchemy as sa

from db.engine import Transaction
from db.outcomes import StoredSaliency
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


def saliency_of_image(tx: Transaction, sop_instance_uid: str) -> StoredSaliency | None:
    """Where the model looked in an image; None if that is not known."""
    query = sa.select(instances.c.saliency, instances.c.saliency_columns).where(
        instances.c.sop_instance_uid == sop_instance_uid, instances.c.saliency.is_not(None)
    )
    row = tx.conn.execute(query).one_or_none()
    return row and StoredSaliency(columns=row.saliency_columns, data=row.saliency)


def newest_report(tx: Transaction, study_instance_uid: str) -> StoredObject | None:
    """A study's newest Structured Report, as it is sent."""
    query = (
        sa.select(objects.c.sop_instance_uid, objects.c.payload)
        .join(studies, studies.c.id == objects.c.study_id)
        .where(
            studies.c.study_instance_uid == study_instance_uid,
            objects.c.kind == ObjectKind.SR,
            objects.c.converted_from_id.is_(None),
        )
        .order_by(objects.c.id.desc())
        .limit(1)
    )
    row = tx.conn.execute(query).one_or_none()
    return row and StoredObject(sop_instance_uid=row.sop_instance_uid, payload=row.payload)
