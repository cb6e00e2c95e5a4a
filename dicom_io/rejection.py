"""Reject objects that we sent: a rejection note (IHE Imaging Object Change Management, RAD-66).

It is a Key Object Selection whose title is the reason, and that names every rejected object;
who takes it hides those, or deletes them.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_io.identity import MANUFACTURER, MODEL_NAME
from dicom_io.made import local_time

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
SERIES_NUMBER = 9909
SERIES_DESCRIPTION = "AI result pneumonia, withdrawn"


PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "TimezoneOffsetFromUTC",
)  # fmt: skip


class Reason(StrEnum):
    QUALITY = "quality"
    SAFETY = "safety"
    EXPIRED = "expired"


# PS3.16 CID 7010, the part that IOCM uses
TITLES = {
    Reason.QUALITY: ("113001", "Rejected for Quality Reasons"),
    Reason.SAFETY: ("113037", "Rejected for Patient Safety Reasons"),
    Reason.EXPIRED: ("113039", "Data Retention Policy Expired"),
}


@dataclass(frozen=True, kw_only=True)
class RejectionNote:
    """What a note says. rejected: Part 10 files of objects of one study, at least one."""

    reason: Reason
    rejected: Sequence[bytes]
    sop_instance_uid: str
    series_instance_uid: str
    created_at: datetime  # aware, in the time zone to be written in unless the objects name one
    software_version: str


def build_note(note: RejectionNote) -> bytes:
    """Return the note as a Part 10 file, Explicit VR Little Endian."""
    from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
    from highdicom.sr import CodedConcept

    sources = [dcmread(BytesIO(payload)) for payload in note.rejected]
    objects = [_identity(source) for source in sources]
    title, meaning = TITLES[note.reason]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom warns of a name by printing it
        content = KeyObjectSelection(CodedConcept(title, "DCM", meaning), objects)
        document = KeyObjectSelectionDocument(
            evidence=objects,
            content=content,
            series_instance_uid=note.series_instance_uid,
            series_number=SERIES_NUMBER,
            sop_instance_uid=note.sop_instance_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=note.software_version,
            series_description=SERIES_DESCRIPTION,
        )
        for item in document.ContentSequence:  # TID 2010 forbids a purpose of reference
            del item.ConceptNameCodeSequence
        _copy_patient_and_study(sources[0], document)
        _set_time(document, local_time(note.created_at, sources[0], note.created_at.tzinfo or UTC))
        buffer = BytesIO()
        document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _identity(source: Dataset) -> Dataset:
    """What highdicom needs of an object; it refuses some patients' names and character sets."""
    ds = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, source[keyword].value)
    for keyword in PATIENT_AND_STUDY:
        setattr(ds, keyword, None)
    if "Rows" in source:
        ds.Rows, ds.Columns = source.Rows, source.Columns
    return ds


def _copy_patient_and_study(source: Dataset, document: Dataset) -> None:
    """Copy elements as they are, so that names keep the bytes of their character set."""
    if "SpecificCharacterSet" in document:
        del document.SpecificCharacterSet
    for keyword in ("SpecificCharacterSet", *PATIENT_AND_STUDY):
        if keyword in source:
            document[keyword] = deepcopy(source[keyword])


def _set_time(document: Dataset, created_at: datetime) -> None:
    document.ContentDate = document.InstanceCreationDate = created_at.strftime("%Y%m%d")
    document.ContentTime = document.InstanceCreationTime = created_at.strftime("%H%M%S")
