"""What the listener writes: one row for each object that a peer sent."""

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from db.engine import Transaction
from db.tables import InstanceState, StudyState, conflicts, erased_files, instances, studies


@dataclass(frozen=True, kw_only=True)
class StudyHeader:
    """What an object says of its study; text as the database keeps it."""

    study_instance_uid: str
    accession_number: str | None = None
    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    study_date: date | None = None
    age_years: float | None = None


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One stored object. `state` is RECEIVED for images, REJECTED for the rest."""

    study: StudyHeader | None
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str | None
    calling_ae_title: str
    spool_name: str
    size_bytes: int
    is_image: bool
    state: InstanceState = InstanceState.RECEIVED
    reason: str | None = None
    view_position: str | None = None
    is_upload: bool = False  # came through the web page: never delivered


class ArrivalOutcome(StrEnum):
    NEW = "new"
    KNOWN = "known"  # the SOP Instance UID has a row already; nothing was written


@dataclass(frozen=True, kw_only=True)
class _Statements:
    """What every store runs, built once: building and hashing them costs more than running them."""

    upsert_study: sa.Executable
    insert_instance: sa.Executable


def _make_statements(insert: Any) -> _Statements:
    """`insert`: a dialect's own, which knows ON CONFLICT."""
    upsert = insert(studies)
    new = upsert.excluded
    # The newest header wins, with what it says.
    said: dict[str, sa.ColumnElement[Any]] = {
        column.name: sa.func.coalesce(new[column.name], column)
        for column in (studies.c.accession_number, studies.c.study_date, studies.c.age_years)
    }
    names_patient = new.patient_id.is_not(None)
    for name in ("patient_id", "issuer_of_patient_id"):  # one means little without the other
        said[name] = sa.case((names_patient, new[name]), else_=studies.c[name])
    upsert = upsert.on_conflict_do_update(
        index_elements=[studies.c.study_instance_uid],
        set_=said
        | {
            "state": new.state,
            "revision": studies.c.revision + 1,
            "image_count": studies.c.image_count + new.image_count,
            "pending_count": studies.c.pending_count + new.pending_count,
            "last_arrival_at": new.last_arrival_at,
            "due_at": new.due_at,
            "attempts": 0,
            "error": None,
            "purged_at": None,
        },
    )
    return _Statements(
        upsert_study=upsert.returning(studies.c.id),
        insert_instance=insert(instances).on_conflict_do_nothing().returning(instances.c.id),
    )


_STATEMENTS = {
    "sqlite": _make_statements(sqlite.insert),
    "postgresql": _make_statements(postgresql.insert),
}
_KNOWN = sa.select(
    instances.c.id, instances.c.spool_name, instances.c.study_id, instances.c.purged_at
).where(instances.c.sop_instance_uid == sa.bindparam("uid"))


def record_arrival(
    tx: Transaction,
    arrival: Arrival,
    *,
    settle_s: float,
    max_age_days: int,
    store_s: float | None = None,
) -> ArrivalOutcome:
    """Write the row of an object and raise its study's revision, in one transaction.

    What could be read takes the row of what could not: that one was refused. store_s: how long
    it took until here.
    """
    known = tx.conn.execute(_KNOWN, {"uid": arrival.sop_instance_uid}).one_or_none()
    if known is not None and arrival.study is not None:
        # Looked at again once it is locked: what was erased meanwhile is new.
        locked = tx.conn.execute(_KNOWN.with_for_update(), {"uid": arrival.sop_instance_uid})
        known = locked.one_or_none()
    if known is not None and (arrival.study is None or known.study_id is not None):
        return ArrivalOutcome.KNOWN
    backlog = arrival.is_upload or _is_old(tx, arrival.study, max_age_days)
    is_pending = arrival.state == InstanceState.RECEIVED
    statements = _STATEMENTS[tx.conn.dialect.name]
    study_id = None
    if arrival.study is not None:
        study = {
            "study_instance_uid": arrival.study.study_instance_uid,
            "accession_number": arrival.study.accession_number,
            "patient_id": arrival.study.patient_id,
            "issuer_of_patient_id": arrival.study.issuer_of_patient_id,
            "study_date": arrival.study.study_date,
            "age_years": arrival.study.age_years,
            "state": StudyState.RECEIVING,
            "backlog": backlog,
            "is_upload": arrival.is_upload,
            "revision": 1,
            "reported_revision": 0,
            "image_count": int(arrival.is_image),
            "pending_count": int(is_pending),
            "analysed_count": 0,
            "attempts": 0,
            "received_at": tx.now,
            "last_arrival_at": tx.now,
            "due_at": tx.now + timedelta(seconds=settle_s),
        }
        study_id = tx.conn.execute(statements.upsert_study, study).scalar_one()
    instance = {
        "study_id": study_id,
        "sop_instance_uid": arrival.sop_instance_uid,
        "sop_class_uid": arrival.sop_class_uid,
        "series_instance_uid": arrival.series_instance_uid,
        "is_image": arrival.is_image,
        "calling_ae_title": arrival.calling_ae_title,
        "spool_name": arrival.spool_name,
        "size_bytes": arrival.size_bytes,
        "state": arrival.state,
        "reason": arrival.reason,
        "view_position": arrival.view_position,
        "backlog": backlog,
        "received_at": tx.now,
        "store_s": store_s,
        "due_at": tx.now if is_pending else None,
        "finished_at": None if is_pending else tx.now,
        "attempts": 0,
    }
    if known is not None:
        tx.conn.execute(sa.insert(erased_files).values(spool_name=known.spool_name))
        tx.conn.execute(sa.update(instances).where(instances.c.id == known.id).values(instance))
        return ArrivalOutcome.NEW
    if tx.conn.execute(statements.insert_instance, instance).scalar_one_or_none() is None:
        # It came twice at the same moment; the study may not be the one that the other is of.
        tx.conn.rollback()
        return ArrivalOutcome.KNOWN
    return ArrivalOutcome.NEW


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """The file of an instance; `purged`: retention has taken its pixel data, or is about to."""

    spool_name: str
    purged: bool


def stored_file(tx: Transaction, sop_instance_uid: str, *, lock: bool = False) -> StoredFile | None:
    """The file of an instance that has a row; lock: it stays so until the transaction ends."""
    query = _KNOWN.with_for_update() if lock else _KNOWN
    known = tx.conn.execute(query, {"uid": sop_instance_uid}).one_or_none()
    if known is None:
        return None
    return StoredFile(spool_name=known.spool_name, purged=known.purged_at is not None)


def replace_header(tx: Transaction, arrival: Arrival, *, settle_s: float) -> bool:
    """Take a corrected header of known pixels: the newest wins, and an image is analysed anew.

    The file before it is listed for removal in the same transaction: without a row it would be
    adopted after a crash, as a correction of what has corrected it. False if the instance belongs
    to another study, which no correction may change.
    """
    if arrival.study is None:
        return False
    # First the instance, then the study: the order in which workers lock them too.
    row = tx.conn.execute(
        sa.select(instances.c.id, instances.c.study_id, instances.c.state, instances.c.spool_name)
        .where(instances.c.sop_instance_uid == arrival.sop_instance_uid)
        .with_for_update()
    ).one()
    study = sa.select(studies.c.id).where(
        studies.c.study_instance_uid == arrival.study.study_instance_uid
    )
    study_id = tx.conn.execute(study.with_for_update()).scalar_one_or_none()
    if study_id is None or row.study_id != study_id:
        return False
    if row.spool_name == arrival.spool_name:  # another process has adopted the same file
        return True
    was_pending = row.state in (InstanceState.RECEIVED, InstanceState.PREPARED)
    is_pending = arrival.state == InstanceState.RECEIVED
    tx.conn.execute(sa.insert(erased_files).values(spool_name=row.spool_name))
    tx.conn.execute(
        sa.update(instances)
        .where(instances.c.id == row.id)
        .values(
            spool_name=arrival.spool_name,
            size_bytes=arrival.size_bytes,
            series_instance_uid=arrival.series_instance_uid,
            view_position=arrival.view_position,
            state=arrival.state,
            reason=arrival.reason,
            due_at=tx.now if is_pending else None,
            attempts=0,
            lease_token=None,
            error=None,
            finished_at=None if is_pending else tx.now,
            purged_at=None,
        )
    )
    header = {
        "accession_number": arrival.study.accession_number,
        "patient_id": arrival.study.patient_id,
        "issuer_of_patient_id": arrival.study.issuer_of_patient_id,
        "study_date": arrival.study.study_date,
        "age_years": arrival.study.age_years,
        "pending_count": studies.c.pending_count + (int(is_pending) - int(was_pending)),
        "analysed_count": studies.c.analysed_count
        - (1 if row.state == InstanceState.PREDICTED else 0),
    }
    tx.conn.execute(sa.update(studies).where(studies.c.id == study_id).values(header))
    _raise_revision(tx, study_id, settle_s)
    return True


def record_conflict(tx: Transaction, arrival: Arrival) -> None:
    """Keep other pixels that came under a taken SOP Instance UID, beside the first."""
    query = sa.select(instances.c.id).where(
        instances.c.sop_instance_uid == arrival.sop_instance_uid
    )
    tx.conn.execute(
        sa.insert(conflicts).values(
            instance_id=tx.conn.execute(query).scalar_one(),
            calling_ae_title=arrival.calling_ae_title,
            spool_name=arrival.spool_name,
            received_at=tx.now,
        )
    )


def try_to_write(tx: Transaction) -> None:
    """Write something and take it back; raises what a database does that takes no writes."""
    tx.conn.execute(sa.insert(erased_files).values(spool_name="tried to write"))
    tx.conn.rollback()


def unknown_spool_names(tx: Transaction, names: list[str]) -> set[str]:
    """Which of these spool files no row speaks of, not even that of an erased study."""
    known: set[str] = set()
    for column in (instances.c.spool_name, conflicts.c.spool_name, erased_files.c.spool_name):
        known |= set(tx.conn.execute(sa.select(column).where(column.in_(names))).scalars())
    return set(names) - known


def _is_old(tx: Transaction, study: StudyHeader | None, max_age_days: int) -> bool:
    if study is None or study.study_date is None:
        return False
    return study.study_date < (tx.now - timedelta(days=max_age_days)).date()


def _raise_revision(tx: Transaction, study_id: int, settle_s: float) -> None:
    tx.conn.execute(
        sa.update(studies)
        .where(studies.c.id == study_id)
        .values(
            state=StudyState.RECEIVING,
            revision=studies.c.revision + 1,
            last_arrival_at=tx.now,
            due_at=tx.now + timedelta(seconds=settle_s),
            attempts=0,
            error=None,
            purged_at=None,
        )
    )
