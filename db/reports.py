"""What the report stage reads and writes: a study as one snapshot, and its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.claims import REPORT, Claim, complete
from db.engine import Transaction
from db.errors import RevisionChanged
from db.outcomes import StoredSaliency
from db.tables import (
    RETRACTED,
    DeliveryState,
    ObjectKind,
    StudyState,
    instances,
    objects,
    outbox,
    reports,
    studies,
)


@dataclass(frozen=True, kw_only=True)
class InstanceSnapshot:
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str | None
    spool_name: str
    is_image: bool
    state: str
    reason: str | None
    intended_use: str | None
    ood_score: float | None
    logit: float | None
    probability: float | None
    band: str | None
    model_name: str | None
    model_version: str | None
    finished_at: datetime | None
    saliency: StoredSaliency | None


@dataclass(frozen=True, kw_only=True)
class EarlierReport:
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content_digest: str


@dataclass(frozen=True, kw_only=True)
class StudySnapshot:
    """A study as it stood at one revision."""

    study_instance_uid: str
    revision: int
    backlog: bool
    retracted: bool  # withdrawn: no report of it leaves until it is released
    instances: tuple[InstanceSnapshot, ...]
    newest_report: EarlierReport | None
    # Pictures that were made already, by SOP Instance UID: destinations that have them, or will.
    pictures: Mapping[str, frozenset[str]]
    told: frozenset[str]  # destinations that a message of an earlier report was for
    patient_id: str | None


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The study's own conclusion, as `study_results` shows it."""

    intended_use: str | None
    probability: float | None
    band: str | None
    model_name: str | None
    model_version: str | None
    note: str | None  # shown as the study's error: why there is no probability


@dataclass(frozen=True, kw_only=True)
class BuiltObject:
    """One object that we made, and where it goes: a Part 10 file, or a message (no SOP class)."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    payload: bytes
    destinations: tuple[str, ...]  # names; empty: the object stays in the database


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """A study's report: its SR, its saliency images, its messages; so they leave."""

    predecessor_uid: str | None
    content_digest: str
    objects: tuple[BuiltObject, ...]

    def __post_init__(self) -> None:
        kinds = [made.kind for made in self.objects]
        if kinds[:1] != [ObjectKind.SR] or ObjectKind.SR in kinds[1:]:
            raise ValueError(f"a report is one SR and then what belongs to it, not {kinds}")

    @property
    def sr(self) -> BuiltObject:
        return self.objects[0]

    @property
    def destinations(self) -> tuple[str, ...]:
        """Where anything of the report goes, each named once."""
        return tuple(dict.fromkeys(name for made in self.objects for name in made.destinations))


def snapshot(tx: Transaction, study_id: int) -> StudySnapshot:
    study = tx.conn.execute(sa.select(studies).where(studies.c.id == study_id)).one()
    rows = tx.conn.execute(
        sa.select(instances).where(instances.c.study_id == study_id).order_by(instances.c.id)
    )
    newest = tx.conn.execute(
        sa.select(
            reports.c.content_digest,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            objects.c.series_instance_uid,
        )
        .join(objects, objects.c.report_id == reports.c.id)
        .where(
            reports.c.study_id == study_id,
            objects.c.kind == ObjectKind.SR,
            objects.c.converted_from_id.is_(None),
        )
        .order_by(reports.c.revision.desc())
        .limit(1)
    ).one_or_none()
    told = (
        sa.select(outbox.c.destination)
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.study_id == study_id, objects.c.kind == ObjectKind.MESSAGE)
    )
    return StudySnapshot(
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        backlog=study.backlog,
        retracted=study.retracted_at is not None,
        instances=tuple(_instance(row) for row in rows),
        newest_report=None
        if newest is None
        else EarlierReport(
            sop_class_uid=newest.sop_class_uid,
            sop_instance_uid=newest.sop_instance_uid,
            series_instance_uid=newest.series_instance_uid,
            content_digest=newest.content_digest,
        ),
        pictures=_pictures(tx, study_id),
        told=frozenset(tx.conn.execute(told).scalars()),
        patient_id=study.patient_id,
    )


def _pictures(tx: Transaction, study_id: int) -> dict[str, frozenset[str]]:
    """Nobody has what was made before a retraction that was taken back: it was withdrawn."""
    query = (
        sa.select(objects.c.sop_instance_uid, reports.c.content_digest, outbox.c.destination)
        .join(reports, reports.c.id == objects.c.report_id)
        .join(outbox, outbox.c.object_id == objects.c.id, isouter=True)
        .where(objects.c.study_id == study_id, objects.c.kind == ObjectKind.SALIENCY)
    )
    found: dict[str, set[str]] = {}
    for row in tx.conn.execute(query):
        have = found.setdefault(row.sop_instance_uid, set())
        if row.destination is not None and row.content_digest != RETRACTED:
            have.add(row.destination)
    return {uid: frozenset(have) for uid, have in found.items()}


def record_report(
    tx: Transaction, held: Claim, revision: int, result: StudyResult, report: BuiltReport | None
) -> None:
    """Write a study's result, its report and the report's deliveries, all or nothing.

    report: None where the newest report says all of this already, or nothing needs saying.
    Raises LeaseLost, or RevisionChanged if the study is no longer at `revision`, or was withdrawn
    meanwhile and the report is to leave all the same.
    """
    values: dict[str, Any] = {
        "state": StudyState.REPORTED,
        "reported_revision": revision,
        "intended_use": result.intended_use,
        "probability": result.probability,
        "band": result.band,
        "model_name": result.model_name,
        "model_version": result.model_version,
        "error": result.note,
    }
    if report is not None:
        values |= {
            "reported_at": tx.now,
            "delivered_at": None,
            "sr_sop_instance_uid": report.sr.sop_instance_uid,
        }
    query = sa.select(studies.c.revision, studies.c.retracted_at).where(studies.c.id == held.id)
    current = tx.conn.execute(query.with_for_update()).one()
    if current.revision != revision:
        raise RevisionChanged(f"report: the study of row {held.id} is past revision {revision}")
    if current.retracted_at is not None and report is not None and report.destinations:
        raise RevisionChanged(f"report: the study of row {held.id} was withdrawn")
    complete(tx, REPORT, held, values)
    if report is not None:
        _insert_report(tx, held.id, revision, report)


def _insert_report(tx: Transaction, study_id: int, revision: int, report: BuiltReport) -> None:
    insert = sa.insert(reports).values(
        study_id=study_id,
        revision=revision,
        predecessor_uid=report.predecessor_uid,
        content_digest=report.content_digest,
        created_at=tx.now,
    )
    report_id = tx.conn.execute(insert.returning(reports.c.id)).scalar_one()
    for made in report.objects:
        insert_object(tx, study_id, report_id, made)


def insert_object(
    tx: Transaction,
    study_id: int,
    report_id: int | None,
    made: BuiltObject,
    *,
    converted_from_id: int | None = None,
) -> int:
    """Keep an object for good, and queue it for its destinations; returns its id."""
    insert = sa.insert(objects).values(
        study_id=study_id,
        report_id=report_id,
        kind=made.kind,
        converted_from_id=converted_from_id,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        series_instance_uid=made.series_instance_uid,
        transfer_syntax_uid=made.transfer_syntax_uid,
        payload=made.payload,
        created_at=tx.now,
    )
    object_id: int = tx.conn.execute(insert.returning(objects.c.id)).scalar_one()
    for destination in made.destinations:
        tx.conn.execute(
            sa.insert(outbox).values(
                study_id=study_id,
                object_id=object_id,
                destination=destination,
                state=DeliveryState.PENDING,
                created_at=tx.now,
                due_at=tx.now,
                attempts=0,
                refusals=0,
            )
        )
    return object_id


def record_report_failure(
    tx: Transaction, held: Claim, error: str, messages: Sequence[BuiltObject] = ()
) -> None:
    """Give a study's report up, and queue who is told so; a later arrival or outcome starts it
    anew. Raises LeaseLost.
    """
    complete(tx, REPORT, held, {"state": StudyState.FAILED, "error": error, "failed_at": tx.now})
    for message in messages:
        insert_object(tx, held.id, None, message)


def _instance(row: sa.Row[Any]) -> InstanceSnapshot:
    return InstanceSnapshot(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        series_instance_uid=row.series_instance_uid,
        spool_name=row.spool_name,
        is_image=row.is_image,
        state=row.state,
        reason=row.reason,
        intended_use=row.intended_use,
        ood_score=row.ood_score,
        logit=row.logit,
        probability=row.probability,
        band=row.band,
        model_name=row.model_name,
        model_version=row.model_version,
        finished_at=row.finished_at,
        saliency=None
        if row.saliency is None
        else StoredSaliency(columns=row.saliency_columns, data=row.saliency),
    )
