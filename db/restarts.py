"""Starting over: what was given up, and studies for the model that is in use now."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db.engine import Transaction
from db.retractions import is_withdrawn
from db.tables import (
    RETRACTED,
    DeliveryState,
    InstanceState,
    StudyState,
    instances,
    outbox,
    pixels,
    reports,
    studies,
)


def retry_deliveries(
    tx: Transaction, *, study_instance_uid: str | None = None, destination: str | None = None
) -> int:
    """Make deliveries due that were given up, and those that wait for their next try.

    What was given up and then withdrawn stays so.
    """
    stopped = sa.or_(
        sa.and_(outbox.c.state == DeliveryState.FAILED, ~is_withdrawn()),
        sa.and_(
            outbox.c.state == DeliveryState.PENDING,
            outbox.c.lease_token.is_(None),
            outbox.c.due_at > tx.now,
        ),
    )
    update = sa.update(outbox).where(stopped)
    if study_instance_uid is not None:
        update = update.where(outbox.c.study_id == _id_of(study_instance_uid))
    if destination is not None:
        update = update.where(outbox.c.destination == destination)
    values = {
        "state": DeliveryState.PENDING,
        "created_at": tx.now,  # its age counts anew
        "due_at": tx.now,
        # Never none again: a destination may have it, whatever it answered.
        "attempts": sa.case((outbox.c.attempts > 0, 1), else_=0),
        "refusals": 0,
        "lease_token": None,
        "error": None,
    }
    return tx.conn.execute(update.values(values)).rowcount


def retry_reports(tx: Transaction, *, study_instance_uid: str | None = None) -> int:
    """Make studies due whose report was given up."""
    update = sa.update(studies).where(studies.c.state == StudyState.FAILED)
    if study_instance_uid is not None:
        update = update.where(studies.c.study_instance_uid == study_instance_uid)
    values = {"state": StudyState.REPORTING, "due_at": tx.now, "attempts": 0, "error": None}
    return tx.conn.execute(update.values(values)).rowcount


def retry_instances(tx: Transaction, *, study_instance_uid: str | None = None) -> int:
    """Prepare failed images anew; what could not be read as DICOM has no study and stays."""
    query = sa.select(studies.c.id).where(
        sa.exists().where(
            instances.c.study_id == studies.c.id,
            instances.c.state == InstanceState.FAILED,
            instances.c.purged_at.is_(None),
        )
    )
    if study_instance_uid is not None:
        query = query.where(studies.c.study_instance_uid == study_instance_uid)
    return sum(
        _analyse_again(tx, study_id, [InstanceState.FAILED], backlog=False)
        for study_id in tx.conn.execute(query).scalars().all()
    )


@dataclass(frozen=True, kw_only=True)
class StoredStudy:
    """A study that can be analysed again, and where its images lie."""

    study_instance_uid: str
    spool_names: tuple[str, ...]


def stored_studies(
    tx: Transaction,
    *,
    study_instance_uids: Sequence[str] = (),
    since: datetime | None = None,
    limit: int,
) -> list[StoredStudy]:
    """Studies with images whose analysis is over: those named, or the newest ones."""
    query = (
        sa.select(studies.c.id, studies.c.study_instance_uid)
        .where(
            sa.exists().where(
                instances.c.study_id == studies.c.id,
                instances.c.is_image,
                instances.c.state.in_(_FINISHED),
                instances.c.purged_at.is_(None),
            )
        )
        .order_by(studies.c.received_at.desc())
        .limit(limit)
    )
    if study_instance_uids:
        query = query.where(studies.c.study_instance_uid.in_(study_instance_uids))
    if since is not None:
        query = query.where(studies.c.received_at >= since)
    return [
        StoredStudy(
            study_instance_uid=row.study_instance_uid,
            spool_names=tuple(
                tx.conn.execute(
                    sa.select(instances.c.spool_name).where(
                        instances.c.study_id == row.id, instances.c.is_image
                    )
                ).scalars()
            ),
        )
        for row in tx.conn.execute(query).all()
    ]


_FINISHED = [InstanceState.PREDICTED, InstanceState.REJECTED, InstanceState.FAILED]


def reprocess(
    tx: Transaction, study_instance_uid: str, *, max_age_days: int, deliver_anyway: bool
) -> int:
    """Analyse a study's images again, after all live work; returns how many.

    Its report leaves as that of a study that arrives now would. deliver_anyway: even if the study
    is older than `max_age_days`, or was retracted; then it is reported anew in any case.
    """
    query = sa.select(studies).where(studies.c.study_instance_uid == study_instance_uid)
    study = tx.conn.execute(query).one_or_none()
    if study is None:
        return 0
    count = _analyse_again(tx, study.id, _FINISHED, backlog=True)
    if deliver_anyway:
        # An upload, which only tries the model, is delivered in no case.
        values: dict[str, Any] = {"backlog": study.is_upload, "retracted_at": None}
        if study.retracted_at is not None:  # the same words would otherwise need no new report
            tx.conn.execute(
                sa.update(reports)
                .where(reports.c.study_id == study.id)
                .values(content_digest=RETRACTED)
            )
    else:
        limit = (tx.now - timedelta(days=max_age_days)).date()
        is_old = study.study_date is not None and study.study_date < limit
        values = {"backlog": study.backlog or is_old}
    tx.conn.execute(sa.update(studies).where(studies.c.id == study.id).values(values))
    return count


def analyse_again(
    tx: Transaction, study_id: int, sop_instance_uids: Collection[str], *, backlog: bool
) -> int:
    """Have analysed images of a study analysed once more before its report; returns how many.

    What has no pixels any more is left as it is.
    """
    these = instances.c.sop_instance_uid.in_(sop_instance_uids)
    return _analyse_again(tx, study_id, [InstanceState.PREDICTED], backlog=backlog, only=these)


def _analyse_again(
    tx: Transaction,
    study_id: int,
    states: Sequence[InstanceState],
    *,
    backlog: bool,
    only: sa.ColumnElement[bool] | None = None,
) -> int:
    # First the instances, then the study: the order in which workers lock them too.
    query = (
        sa.select(instances.c.id, instances.c.state)
        .where(
            instances.c.study_id == study_id,
            instances.c.is_image,
            instances.c.state.in_(states),
            instances.c.purged_at.is_(None),  # there is nothing to analyse any more
        )
        .order_by(instances.c.id)
        .with_for_update()
    )
    rows = tx.conn.execute(query if only is None else query.where(only)).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    tx.conn.execute(
        sa.update(instances)
        .where(instances.c.id.in_(ids))
        .values(
            state=InstanceState.RECEIVED,
            reason=None,
            backlog=backlog,
            due_at=tx.now,
            attempts=0,
            lease_token=None,
            error=None,
            finished_at=None,
        )
    )
    tx.conn.execute(sa.delete(pixels).where(pixels.c.instance_id.in_(ids)))
    analysed = sum(row.state == InstanceState.PREDICTED for row in rows)
    tx.conn.execute(
        sa.update(studies)
        .where(studies.c.id == study_id)
        .values(
            state=StudyState.ANALYSING,
            revision=studies.c.revision + 1,
            pending_count=studies.c.pending_count + len(ids),
            analysed_count=studies.c.analysed_count - analysed,
            due_at=tx.now,
            attempts=0,
            error=None,
        )
    )
    return len(ids)


def _id_of(study_instance_uid: str) -> sa.ScalarSelect[Any]:
    query = sa.select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid)
    return query.scalar_subquery()
