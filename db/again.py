"""Doing things again: a study through the model, its failed deliveries to their destinations."""

from datetime import timedelta

import sqlalchemy as sa

from db.engine import Transaction
from db.tables import DeliveryState, InstanceState, StudyState, instances, outbox, studies

_DONE = (InstanceState.PREDICTED, InstanceState.REJECTED, InstanceState.FAILED)


def reprocess_study(tx: Transaction, study_instance_uid: str) -> list[str] | None:
    """Put a study's images back to the start, behind live work; returns their UIDs.

    None if there is no such study. A report that would say the same as the newest is not made.
    """
    # First the instances, then the study: the order in which workers lock them too.
    query = sa.select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid)
    study_id = tx.conn.execute(query).scalar_one_or_none()
    if study_id is None:
        return None
    update = (
        sa.update(instances)
        .where(instances.c.study_id == study_id, instances.c.is_image, instances.c.state.in_(_DONE))
        .values(
            state=InstanceState.RECEIVED,
            reason=None,
            error=None,
            backlog=True,
            due_at=tx.now,
            attempts=0,
            lease_token=None,
            prepared_at=None,
            finished_at=None,
        )
        .returning(instances.c.sop_instance_uid)
    )
    uids = list(tx.conn.execute(update).scalars())
    if not uids:
        return []
    analysed = sa.select(sa.func.count()).where(
        instances.c.study_id == study_id, instances.c.state == InstanceState.PREDICTED
    )
    tx.conn.execute(
        sa.update(studies)
        .where(studies.c.id == study_id)
        .values(
            state=StudyState.ANALYSING,
            revision=studies.c.revision + 1,
            pending_count=studies.c.pending_count + len(uids),
            analysed_count=analysed.scalar_subquery(),
            due_at=tx.now,
            attempts=0,
            lease_token=None,
            error=None,
        )
    )
    return uids


def retry_deliveries(tx: Transaction, study_instance_uid: str) -> list[str]:
    """Make a study's failed and waiting deliveries due now; returns their destinations."""
    study_id = sa.select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid)
    update = (
        sa.update(outbox)
        .where(
            outbox.c.study_id == study_id.scalar_subquery(),
            sa.or_(
                outbox.c.state == DeliveryState.FAILED,
                # One that is leased is being sent right now.
                sa.and_(
                    outbox.c.state == DeliveryState.PENDING,
                    sa.or_(
                        outbox.c.lease_token.is_(None),
                        outbox.c.due_at < tx.now - timedelta(seconds=1),
                    ),
                ),
            ),
        )
        .values(state=DeliveryState.PENDING, due_at=tx.now, attempts=0, lease_token=None)
        .returning(outbox.c.destination)
    )
    return sorted(set(tx.conn.execute(update).scalars()))
