"""What people ask: rows of the public views, one study's timeline, the state of the queues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from db.claims import DELIVER, STAGES
from db.engine import Transaction
from db.tables import (
    DeliveryState,
    InstanceState,
    ObjectKind,
    StudyState,
    UtcDateTime,
    conflicts,
    instances,
    objects,
    outbox,
    reports,
    studies,
)

COUNTED_MAX = 10_000  # a queue or a state that holds more is said to hold as many
UPLOAD = "upload"  # an origin
KEYS_AT_ONCE = 500  # SQLite bounds the parameters of one statement

_TIMES = {
    "received_at",
    "predicted_at",
    "reported_at",
    "delivered_at",
    "next_attempt_at",
    "sent_at",
    "committed_at",
    "failed_at",
    "created_at",
    "retracted_at",
}


def _view(name: str, columns: str) -> sa.TableClause:
    typed: list[sa.ColumnClause[Any]] = []
    for column in columns.split():
        if column in _TIMES:
            typed.append(sa.column(column, UtcDateTime))
        elif column == "study_date":
            typed.append(sa.column(column, sa.Date))
        else:
            typed.append(sa.column(column))
    return sa.table(name, *typed)


study_results = _view(
    "study_results",
    """study_instance_uid accession_number patient_id issuer_of_patient_id study_date age_years
    intended_use probability band model_name model_version state image_count analysed_count
    received_at reported_at delivered_at sr_sop_instance_uid revision error
    retracted_at origin""",
)
instance_results = _view(
    "instance_results",
    """sop_instance_uid study_instance_uid state reason view_position ood_score probability
    raw_probability band model_name model_version received_at predicted_at""",
)
deliveries = _view(
    "deliveries",
    """study_instance_uid sop_instance_uid kind destination state attempts next_attempt_at
    sent_at committed_at error""",
)
failures = _view(
    "failures", "failed_at study_instance_uid sop_instance_uid what destination reason"
)
study_times = _view(
    "study_times",
    "study_instance_uid received_at arrival_s analysis_s report_s delivery_s total_s",
)
instance_times = _view(
    "instance_times",
    "sop_instance_uid study_instance_uid state received_at prepare_s infer_s total_s",
)
study_feedback = _view(
    "study_feedback",
    """study_instance_uid verdict comment author created_at revision probability band model_name
    model_version""",
)

model_comparisons = _view(
    "model_comparisons",
    """created_at study_instance_uid sop_instance_uid state reason champion_name champion_version
    champion_probability champion_band champion_s challenger_name challenger_version
    challenger_probability challenger_band challenger_s""",
)


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """Which studies are wanted: all conditions must hold; an empty one holds for all.

    since, until: received at or after, and before. An outside intended use is "outside" or
    "unknown". verdict: some reader's feedback says so.
    """

    since: datetime | None = None
    until: datetime | None = None
    bands: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    accession_number: str | None = None
    patient_id: str | None = None
    study_instance_uid: str | None = None
    model_version: str | None = None
    intended_use: str | None = None
    origin: str | None = None
    probability_from: float | None = None
    probability_to: float | None = None
    verdict: str | None = None
    limit: int | None = None


def conditions(wanted: ResultFilter) -> list[sa.ColumnElement[bool]]:
    """A filter as conditions on `study_results`."""
    view, found = study_results.c, []
    for column, value in (
        (view.accession_number, wanted.accession_number),
        (view.patient_id, wanted.patient_id),
        (view.study_instance_uid, wanted.study_instance_uid),
        (view.model_version, wanted.model_version),
        (view.intended_use, wanted.intended_use),
    ):
        if value is not None:
            found.append(column == value)
    if wanted.origin == UPLOAD:
        uploaded = sa.select(studies.c.study_instance_uid).where(sa.text("is_upload"))
        found.append(view.study_instance_uid.in_(uploaded))  # in the words of its index
    elif wanted.origin is not None:
        found.append(view.origin == wanted.origin)
    if wanted.since is not None:
        found.append(view.received_at >= wanted.since)
    if wanted.until is not None:
        found.append(view.received_at < wanted.until)
    if wanted.bands:
        found.append(view.band.in_(wanted.bands))
    if wanted.states:
        found.append(view.state.in_(wanted.states))
    if wanted.probability_from is not None:
        found.append(view.probability >= wanted.probability_from)
    if wanted.probability_to is not None:
        found.append(view.probability <= wanted.probability_to)
    if wanted.verdict is not None:
        said = sa.select(study_feedback.c.study_instance_uid)
        of_these = said.where(study_feedback.c.verdict == wanted.verdict)
        found.append(view.study_instance_uid.in_(of_these))  # opinions are few, studies many
    return found


def find_study_results(tx: Transaction, wanted: ResultFilter) -> list[Mapping[str, Any]]:
    """Rows of `study_results`, the newest first. Sorted otherwise, or many: `db.search`."""
    query = sa.select(study_results).where(*conditions(wanted)).limit(wanted.limit)
    return _rows(tx, query.order_by(study_results.c.received_at.desc()))


def find_instance_results(tx: Transaction, study_instance_uid: str) -> list[Mapping[str, Any]]:
    view = instance_results.c
    query = sa.select(instance_results).where(view.study_instance_uid == study_instance_uid)
    return _rows(tx, query.order_by(view.received_at, view.sop_instance_uid))


def find_instance(tx: Transaction, sop_instance_uid: str) -> Mapping[str, Any] | None:
    view = instance_results
    query = sa.select(view).where(view.c.sop_instance_uid == sop_instance_uid)
    found = _rows(tx, query)
    return found[0] if found else None


def patient_id_of(tx: Transaction, study_instance_uid: str) -> str | None:
    query = sa.select(studies.c.patient_id).where(
        studies.c.study_instance_uid == study_instance_uid
    )
    found: str | None = tx.conn.execute(query).scalar_one_or_none()
    return found


def find_studies_named(tx: Transaction, name: str, *, limit: int = 20) -> list[str]:
    """UIDs of the studies that a person may mean: by UID, accession number or an image's UID."""
    study, instance = study_results.c, instance_results.c
    for query in (
        sa.select(study.study_instance_uid).where(study.study_instance_uid == name),
        sa.select(study.study_instance_uid)
        .where(study.accession_number == name)
        .order_by(study.received_at.desc()),
        sa.select(instance.study_instance_uid).where(
            instance.sop_instance_uid == name, instance.study_instance_uid.is_not(None)
        ),
    ):
        if found := list(tx.conn.execute(query.limit(limit)).scalars()):
            return found
    return []


def find_feedback(tx: Transaction, study_instance_uid: str) -> list[Mapping[str, Any]]:
    """What readers said of a study, the newest first."""
    view = study_feedback.c
    query = sa.select(study_feedback).where(view.study_instance_uid == study_instance_uid)
    return _rows(tx, query.order_by(view.created_at.desc()))


@dataclass(frozen=True, kw_only=True)
class AnalysedImage:
    """An instance's result and its study's, with the key that it was asked for by."""

    key: str
    study_instance_uid: str
    patient: tuple[str, ...]
    is_image: bool
    state: str
    reason: str | None
    logit: float | None
    model_name: str | None
    model_version: str | None
    intended_use: str | None
    view_position: str | None
    ood_score: float | None
    age_years: float | None

    def is_of(self, model_name: str, model_version: str) -> bool:
        analysed_by = (self.model_name, self.model_version)
        return self.logit is not None and analysed_by == (model_name, model_version)


def find_analysed_images(tx: Transaction, key: str, values: Sequence[str]) -> list[AnalysedImage]:
    """All instances of these studies, or these instances.

    key: accession_number, study_instance_uid or sop_instance_uid. A study without a patient ID
    is a patient of its own.
    """
    asked = instances.c.sop_instance_uid if key == "sop_instance_uid" else studies.c[key]
    of_instance = (
        *(instances.c.state, instances.c.reason, instances.c.is_image, instances.c.logit),
        *(instances.c.model_name, instances.c.model_version, instances.c.intended_use),
        *(instances.c.view_position, instances.c.ood_score),
    )
    query = (
        sa.select(
            *(asked.label("key"), studies.c.study_instance_uid, studies.c.age_years),
            *(studies.c.patient_id, studies.c.issuer_of_patient_id),
            *of_instance,
        )
        .join(studies, studies.c.id == instances.c.study_id)
        .order_by(instances.c.id)
    )
    found = []
    for start in range(0, len(values), KEYS_AT_ONCE):
        for row in _rows(tx, query.where(asked.in_(values[start : start + KEYS_AT_ONCE]))):
            plain = dict(row)
            patient_id, issuer = plain.pop("patient_id"), plain.pop("issuer_of_patient_id")
            patient = (patient_id, issuer or "") if patient_id else (row["study_instance_uid"],)
            found.append(AnalysedImage(patient=patient, **plain))
    return found


def find_deliveries(tx: Transaction, study_instance_uid: str) -> list[Mapping[str, Any]]:
    """Deliveries of a study's objects, in the order in which these were made."""
    made = sa.select(objects.c.id).where(
        objects.c.sop_instance_uid == deliveries.c.sop_instance_uid
    )
    query = sa.select(deliveries).where(deliveries.c.study_instance_uid == study_instance_uid)
    query = query.order_by(made.scalar_subquery(), deliveries.c.destination)
    return _rows(tx, query)


@dataclass(frozen=True, kw_only=True)
class Event:
    at: datetime
    what: str
    sop_instance_uid: str | None = None
    detail: str | None = None


def timeline(tx: Transaction, study_instance_uid: str) -> list[Event]:
    """Everything that happened to a study, from its first object to its last delivery."""
    query = sa.select(studies.c.id, studies.c.retracted_at, studies.c.purged_at).where(
        studies.c.study_instance_uid == study_instance_uid
    )
    study = tx.conn.execute(query).one_or_none()
    if study is None:
        return []
    events = [
        *_instance_events(tx, study.id),
        *_conflict_events(tx, study.id),
        *_report_events(tx, study.id),
    ]
    if study.retracted_at is not None:
        events.append(Event(at=study.retracted_at, what="retracted"))
    if study.purged_at is not None:
        events.append(Event(at=study.purged_at, what="pixel data removed"))
    return sorted(events, key=lambda event: event.at)


def _instance_events(tx: Transaction, study_id: int) -> list[Event]:
    events = []
    rows = tx.conn.execute(sa.select(instances).where(instances.c.study_id == study_id))
    for row in rows:
        uid = row.sop_instance_uid
        sender = f"from {row.calling_ae_title}, {row.size_bytes} bytes"
        events.append(
            Event(at=row.received_at, what="received", sop_instance_uid=uid, detail=sender)
        )
        if row.prepared_at is not None:
            events.append(Event(at=row.prepared_at, what="prepared", sop_instance_uid=uid))
        if row.predicted_at is not None and row.probability is not None:
            said = f"probability {row.probability:.3f}, {row.band}"
            events.append(
                Event(at=row.predicted_at, what="predicted", sop_instance_uid=uid, detail=said)
            )
        if row.reason is not None or row.error is not None:
            what = row.state if row.reason else "will be tried again"
            at = row.finished_at or row.prepared_at or row.received_at
            events.append(
                Event(at=at, what=what, sop_instance_uid=uid, detail=row.reason or row.error)
            )
    return events


def _conflict_events(tx: Transaction, study_id: int) -> list[Event]:
    query = (
        sa.select(instances.c.sop_instance_uid, conflicts.c.received_at)
        .join(conflicts, conflicts.c.instance_id == instances.c.id)
        .where(instances.c.study_id == study_id)
    )
    what = "other pixels under the same UID"
    return [
        Event(at=row.received_at, what=what, sop_instance_uid=row.sop_instance_uid)
        for row in tx.conn.execute(query)
    ]


def _report_events(tx: Transaction, study_id: int) -> list[Event]:
    events = []
    query = (
        sa.select(
            objects.c.kind,
            objects.c.sop_instance_uid,
            objects.c.converted_from_id,
            objects.c.created_at,
            reports.c.revision,
        )
        .outerjoin(reports, reports.c.id == objects.c.report_id)
        .where(objects.c.study_id == study_id)
    )
    for row in tx.conn.execute(query):
        what = "report" if row.kind == ObjectKind.SR else row.kind
        detail = None if row.revision is None else f"revision {row.revision}"
        if row.converted_from_id is not None:
            detail = f"{detail}, in the SOP class that a destination takes"
        uid = row.sop_instance_uid
        events.append(Event(at=row.created_at, what=what, sop_instance_uid=uid, detail=detail))
    query = (
        sa.select(outbox, objects.c.sop_instance_uid)
        .join(objects, objects.c.id == outbox.c.object_id)
        .where(outbox.c.study_id == study_id)
    )
    for row in tx.conn.execute(query):
        uid = row.sop_instance_uid
        if row.sent_at is not None:
            events.append(
                Event(at=row.sent_at, what="sent", sop_instance_uid=uid, detail=row.destination)
            )
        if row.committed_at is not None:
            at = row.committed_at
            events.append(
                Event(at=at, what="committed", sop_instance_uid=uid, detail=row.destination)
            )
        elif row.error is not None or row.state == DeliveryState.FAILED:
            what = "delivery failed" if row.state == DeliveryState.FAILED else "delivery waits"
            detail = f"{row.destination}: {row.error}"
            at = row.due_at or row.failed_at or row.created_at
            events.append(Event(at=at, what=what, sop_instance_uid=uid, detail=detail))
    return events


@dataclass(frozen=True, kw_only=True)
class StageQueue:
    """Rows that are due for one stage now. `waits_since` is None when there are none."""

    name: str
    due: int
    waits_since: datetime | None


@dataclass(frozen=True, kw_only=True)
class Overview:
    now: datetime
    queues: tuple[StageQueue, ...]
    studies: Mapping[str, int] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    deliveries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def overview(tx: Transaction) -> Overview:
    """How much waits where, and for how long. Nothing is counted beyond COUNTED_MAX."""
    queues = []
    for stage in STAGES:
        due_at = stage.table.c.due_at
        # Of a million deliveries, asking each whether an earlier one goes first takes too long.
        waiting = outbox.c.state == DeliveryState.PENDING if stage is DELIVER else stage.waiting
        query = sa.select(due_at).where(waiting, due_at <= tx.now)
        due = _count(tx, query)
        oldest = tx.conn.execute(query.order_by(due_at).limit(1)).scalar() if due else None
        queues.append(StageQueue(name=stage.name, due=due, waits_since=oldest))
    by_destination: dict[str, dict[str, int]] = {}
    for state in DeliveryState:
        of_state = sa.select(outbox.c.id).where(outbox.c.state == state)
        for destination in _destinations(tx, state):
            count = _count(tx, of_state.where(outbox.c.destination == destination))
            by_destination.setdefault(destination, {})[state.value] = count
    return Overview(
        now=tx.now,
        queues=tuple(queues),
        studies=_count_by_state(tx, studies, StudyState, zeros=True),
        instances=_count_by_state(tx, instances, InstanceState, zeros=False),
        deliveries=by_destination,
    )


def _count_by_state(
    tx: Transaction, table: sa.Table, states: type[StrEnum], *, zeros: bool
) -> dict[str, int]:
    counts = {
        state.value: _count(tx, sa.select(table.c.id).where(table.c.state == state))
        for state in states
    }
    return counts if zeros else {state: count for state, count in counts.items() if count}


def _count(tx: Transaction, query: sa.Select[Any]) -> int:
    bounded = query.limit(COUNTED_MAX).subquery()
    return int(tx.conn.execute(sa.select(sa.func.count()).select_from(bounded)).scalar_one())


def _destinations(tx: Transaction, state: DeliveryState) -> list[str]:
    """The few names among many rows, each found by one step down the index."""
    found: list[str] = []
    next_one = sa.select(sa.func.min(outbox.c.destination)).where(outbox.c.state == state)
    name = tx.conn.execute(next_one).scalar_one()
    while name is not None:
        found.append(name)
        name = tx.conn.execute(next_one.where(outbox.c.destination > name)).scalar_one()
    return found


def _rows(tx: Transaction, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
    return [dict(row) for row in tx.conn.execute(query).mappings()]
