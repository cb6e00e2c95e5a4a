"""What a message says of a study's report: plain values, before any wire format."""

from dataclasses import dataclass
from datetime import date, datetime

from pydicom.dataset import Dataset

from dicom_io.made import local_time
from dicom_io.read import date_value, raw_value, text_value
from dicom_io.sr_content import conclusion_text
from dicom_io.sr_report import StudyReport

_NAME_LENGTH_MAX = 5 * 64 + 4  # PS3.5 6.2, PN: one group


@dataclass(frozen=True, kw_only=True)
class Patient:
    """name: family, given, middle, prefix, suffix, as in PS3.5 6.2.1.1; may end early."""

    id: str | None
    issuer: str | None
    name: tuple[str, ...]
    birth_date: date | None
    sex: str | None


@dataclass(frozen=True, kw_only=True)
class Told:
    """One report, as messages tell it. probability, band: None where the report names none.

    is_correction: an earlier report of the study went before it; `made.of_report` asks whom it was
    told. created_at: in local time.
    """

    study_instance_uid: str
    sr_sop_instance_uid: str
    revision: int
    is_correction: bool
    created_at: datetime
    accession_number: str | None
    placer_order_number: str | None
    study_date: date | None
    patient: Patient
    probability: float | None
    band: str | None
    intended_use: str
    conclusion: str
    model_name: str
    model_version: str
    weights_sha256: str


def told(report: StudyReport) -> Told:
    """What the report's reader is told, and no more: a probability it withholds is withheld."""
    source = report.images[0].dataset
    names_it = not report.is_withheld and report.probability is not None
    return Told(
        study_instance_uid=text_value(source, "StudyInstanceUID", 64) or "",
        sr_sop_instance_uid=report.sop_instance_uid,
        revision=report.instance_number,
        is_correction=report.predecessor is not None,
        created_at=local_time(report.created_at, source, report.timezone),
        accession_number=text_value(source, "AccessionNumber", 64),
        placer_order_number=_placer_order_number(source),
        study_date=date_value(source, "StudyDate"),
        patient=_patient(source),
        probability=report.probability if names_it else None,
        band=report.band if names_it else None,
        intended_use=report.intended_use,
        conclusion=conclusion_text(report),
        model_name=report.model.name,
        model_version=report.model.version,
        weights_sha256=report.model.weights_sha256,
    )


def _patient(source: Dataset) -> Patient:
    groups = str(raw_value(source, "PatientName") or "").split("=")
    name = next((group for group in groups if group), "")[:_NAME_LENGTH_MAX]
    return Patient(
        id=text_value(source, "PatientID", 64),
        issuer=text_value(source, "IssuerOfPatientID", 64),
        name=tuple(part.strip() for part in name.split("^")[:5]),
        birth_date=date_value(source, "PatientBirthDate"),
        sex=text_value(source, "PatientSex", 16),
    )


def _placer_order_number(source: Dataset) -> str | None:
    number = text_value(source, "PlacerOrderNumberImagingServiceRequest", 64)
    requests = raw_value(source, "RequestAttributesSequence")
    if number is None and requests and isinstance(requests[0], Dataset):
        number = text_value(requests[0], "PlacerOrderNumberImagingServiceRequest", 64)
    return number
