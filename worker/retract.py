"""Withdrawing a study's reports where they were delivered."""

from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from pydicom.uid import generate_uid

from db import retractions
from db.engine import Database
from db.errors import RevisionChanged
from db.reports import BuiltObject
from db.retractions import DeliveredObject, Retractable
from db.tables import ObjectKind
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.rejection import KEY_OBJECT_SELECTION, Reason, RejectionNote, build_note
from worker.errors import WorkerError
from worker.messages import made
from worker.settings import Settings
from worker.version import VERSION

_ATTEMPTS_MAX = 5


@dataclass(frozen=True, kw_only=True)
class Retraction:
    """What came of it: destinations that get a note, and those that hold reports but take none."""

    noted: tuple[str, ...] = ()
    without_note: tuple[str, ...] = ()
    already: datetime | None = None  # when it was retracted before, if nothing is new since
    notes: tuple[str, ...] = field(default=())  # SOP Instance UIDs


def retract(
    settings: Settings, database: Database, study_instance_uid: str, reason: Reason
) -> Retraction:
    """Queue rejection notes and keep further reports back, in one transaction.

    Raises WorkerError when there is no such study, or deliveries keep coming in between.
    """
    for _ in range(_ATTEMPTS_MAX):
        with database.read() as tx:
            found, now = retractions.retractable(tx, study_instance_uid), tx.now
        if found is None:
            raise WorkerError(f"no study {study_instance_uid} in the database")
        if found.retracted_at is not None and not found.delivered:
            return Retraction(already=found.retracted_at)
        notes = _notes(settings, found, reason, now.astimezone(ZoneInfo(settings.timezone)))
        try:
            with database.begin() as tx:
                retractions.retract(tx, found, notes)
        except RevisionChanged:
            continue
        noted = {name for note in notes for name in note.destinations}
        holding = {name for names in found.delivered.values() for name in names}
        return Retraction(
            noted=tuple(sorted(noted)),
            without_note=tuple(sorted(holding - noted)),
            notes=tuple(note.sop_instance_uid for note in notes),
        )
    raise WorkerError("deliveries of this study keep coming in between: hold the destination first")


def _notes(
    settings: Settings, found: Retractable, reason: Reason, now: datetime
) -> list[BuiltObject]:
    notes = []
    for tried, names in found.delivered.items():
        known = [it for name in names if (it := settings.recipient(name)) is not None]
        takers = [it for it in known if ObjectKind.REJECTION in it.objects]
        messages = [it for it in tried if it.kind == ObjectKind.MESSAGE]
        objects = tuple(it for it in tried if it.kind != ObjectKind.MESSAGE)
        holders = tuple(it.name for it in takers if not it.takes_messages)
        if holders and objects:
            notes.append(_note(objects, holders, reason, now))
        if messages:  # the newest is what stands there
            sent = messages[-1].payload
            told = [it for it in takers if it.takes_messages and made.fits(it.address, sent)]
            notes += [made.withdrawal(it, sent, reason, now) for it in told]
    return notes


def _note(
    rejected: tuple[DeliveredObject, ...], destinations: tuple[str, ...], reason: Reason,
    now: datetime,
) -> BuiltObject:  # fmt: skip
    uid, series = str(generate_uid(prefix=None)), str(generate_uid(prefix=None))
    payload = build_note(
        RejectionNote(
            reason=reason,
            rejected=[it.payload for it in rejected],
            sop_instance_uid=uid,
            series_instance_uid=series,
            created_at=now,
            software_version=VERSION,
        )
    )
    return BuiltObject(
        kind=ObjectKind.REJECTION,
        sop_class_uid=KEY_OBJECT_SELECTION,
        sop_instance_uid=uid,
        series_instance_uid=series,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=payload,
        destinations=destinations,
    )
