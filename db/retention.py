"""Which studies have been kept long enough: reported, and delivered everywhere, some days ago.

What is not delivered yet, or was given up, or is not committed where that was asked for, keeps its
pixels for as long as that takes.
"""

from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate

import sqlalchemy as sa

from db.engine import Transaction
from db.retractions import is_withdrawn
from db.tables import DeliveryState, StudyState, instances, outbox, studies


@dataclass(frozen=True, kw_only=True)
class Expired:
    """A study whose pixel data is to go, and the spool files that hold it."""

    id: int
    study_instance_uid: str
    spool_names: tuple[str, ...]


def _undelivered() -> sa.ColumnElement[bool]:
    return sa.exists().where(
        outbox.c.study_id == studies.c.id,
        sa.or_(
            outbox.c.state == DeliveryState.PENDING,
            sa.and_(outbox.c.state == DeliveryState.FAILED, ~is_withdrawn()),
            outbox.c.due_at.is_not(None),  # sent, and to be committed
        ),
    )


def expire(
    tx: Transaction, *, days: int, limit: int, enough_bytes: int | None = None
) -> list[Expired]:
    """Mark the images of studies that were kept for `days`; from now on none is analysed again.

    The oldest come first; enough_bytes: and no more of them than hold so much. Their files are to
    be made smaller then, and `record_purged` says that they are; whoever is killed in between finds
    them here again.
    """
    old = sa.and_(
        studies.c.purged_at.is_(None),
        studies.c.last_arrival_at < tx.now - timedelta(days=days),
        studies.c.state == StudyState.REPORTED,
        studies.c.pending_count == 0,
        studies.c.due_at.is_(None),
        ~_undelivered(),
    )
    size_bytes = (
        sa.select(sa.func.sum(instances.c.size_bytes))
        .where(instances.c.study_id == studies.c.id, instances.c.is_image)
        .scalar_subquery()
    )
    query = sa.select(studies.c.id, size_bytes).where(old)
    candidates = tx.conn.execute(query.order_by(studies.c.last_arrival_at).limit(limit))
    found = _first([(id_, int(size or 0)) for id_, size in candidates], enough_bytes)
    if not found:
        return []
    # First the instances, then the study: the order in which workers lock them too.
    tx.conn.execute(
        sa.select(instances.c.id)
        .where(instances.c.study_id.in_(found))
        .order_by(instances.c.id)
        .with_for_update()
    ).all()
    still = sa.select(studies.c.id, studies.c.study_instance_uid).where(
        studies.c.id.in_(found), old
    )
    rows = tx.conn.execute(still.with_for_update(of=studies)).all()
    images = sa.and_(instances.c.study_id.in_([row.id for row in rows]), instances.c.is_image)
    tx.conn.execute(sa.update(instances).where(images).values(purged_at=tx.now))
    names: dict[int, list[str]] = {row.id: [] for row in rows}
    files = sa.select(instances.c.study_id, instances.c.spool_name).where(images)
    for it in tx.conn.execute(files):
        names[it.study_id].append(it.spool_name)
    return [
        Expired(
            id=row.id, study_instance_uid=row.study_instance_uid, spool_names=tuple(names[row.id])
        )
        for row in rows
    ]


def _first(candidates: list[tuple[int, int]], enough_bytes: int | None) -> list[int]:
    """The ids of the first that hold enough together; of all if that is None."""
    if enough_bytes is None:
        return [id_ for id_, _ in candidates]
    before = accumulate((size for _, size in candidates), initial=0)
    return [id_ for (id_, _), held in zip(candidates, before, strict=False) if held < enough_bytes]


def record_purged(tx: Transaction, done: list[Expired]) -> None:
    """Write that the files are smaller; not of a study that has got another image meanwhile."""
    unmarked = sa.exists().where(
        instances.c.study_id == studies.c.id, instances.c.is_image, instances.c.purged_at.is_(None)
    )
    ids = [it.id for it in done]
    update = sa.update(studies).where(studies.c.id.in_(ids), ~unmarked)
    tx.conn.execute(update.values(purged_at=tx.now))
