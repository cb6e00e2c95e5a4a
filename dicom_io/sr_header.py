"""The SR's attributes outside its content tree.

They are set here and not by highdicom's SR classes, which stamp the time of the call into the
object and raise where a source attribute is absent or invalid: the same report must be the same
bytes, and a hole in an image's header must not cost the study its report. What is Type 2 and
missing in the image is empty in the report; what is invalid counts as missing.
"""

import re
from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io.identity import MANUFACTURER, MODEL_NAME, derived_uid, device_uid
from dicom_io.read import date_value, raw_value, text_value
from dicom_io.sr_report import ModelIdentity, StudyReport

IMPLEMENTATION_CLASS_UID = derived_uid("cxr-worker implementation")
SERIES_DESCRIPTION = "AI result pneumonia, not for diagnostic use"
CODING_SCHEME = "99CXRWORKER"

_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_TYPE_3 = (
    "IssuerOfPatientID", "TypeOfPatientID", "PatientAge", "StudyDescription",
    "TimezoneOffsetFromUTC", "IssuerOfPatientIDQualifiersSequence",
    "IssuerOfAccessionNumberSequence",
)  # fmt: skip
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)


def report_header(report: StudyReport) -> FileDataset:
    """Return a data set with everything but the content tree."""
    source = report.images[0].dataset
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(report.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(report.sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = "CXR_WORKER"
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    _copy_patient_and_study(source, ds)
    _set_series_and_equipment(report, ds)
    _set_document(report, ds, _local(report.created_at, source, report))
    return ds


def _copy_patient_and_study(source: Dataset, ds: Dataset) -> None:
    """Copy elements as they are, so that names keep the bytes of their character set."""
    _copy(source, ds, "SpecificCharacterSet")
    for keyword in _TYPE_2:
        if not _is_valid(source, keyword) or not _copy(source, ds, keyword):
            setattr(ds, keyword, None)
    for keyword in _TYPE_3:
        if _is_valid(source, keyword):
            _copy(source, ds, keyword)
    ds.StudyInstanceUID = text_value(source, "StudyInstanceUID", 64)


def _set_series_and_equipment(report: StudyReport, ds: Dataset) -> None:
    ds.Modality = "SR"
    ds.SeriesInstanceUID = report.series_instance_uid
    ds.SeriesNumber = report.series_number
    ds.SeriesDescription = SERIES_DESCRIPTION
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.DeviceSerialNumber = report.model.weights_sha256[:16]
    ds.SoftwareVersions = software_versions(report.model, report.software_version)
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code_item(*codes.DCM.ProcessingEquipment[:3])]
    equipment.Manufacturer = MANUFACTURER
    equipment.ManufacturerModelName = MODEL_NAME
    equipment.SoftwareVersions = ds.SoftwareVersions
    equipment.DeviceUID = device_uid_of(report.model)
    ds.ContributingEquipmentSequence = [equipment]


def _set_document(report: StudyReport, ds: Dataset, created_at: datetime) -> None:
    ds.SOPClassUID = report.sop_class_uid
    ds.SOPInstanceUID = report.sop_instance_uid
    ds.InstanceNumber = report.instance_number
    ds.ContentDate = ds.InstanceCreationDate = created_at.strftime("%Y%m%d")
    ds.ContentTime = ds.InstanceCreationTime = created_at.strftime("%H%M%S")
    ds.ContentQualification = "RESEARCH"
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CurrentRequestedProcedureEvidenceSequence = _evidence(
        image.dataset for image in report.images
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator = CODING_SCHEME
    scheme.CodingSchemeUID = derived_uid("cxr-worker coding scheme")
    scheme.CodingSchemeName = "cxr-worker codes"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    ds.CodingSchemeIdentificationSequence = [scheme]
    request = _request(report.images[0].dataset, ds)
    if request is not None:
        ds.ReferencedRequestSequence = [request]
    if report.predecessor is not None:
        older = Dataset()
        older.StudyInstanceUID = ds.StudyInstanceUID
        older.ReferencedSeriesSequence = [
            _series_item(
                report.predecessor.series_instance_uid,
                [(report.predecessor.sop_class_uid, report.predecessor.sop_instance_uid)],
            )
        ]
        ds.PredecessorDocumentsSequence = [older]


def _evidence(images: Iterable[Dataset]) -> list[Dataset]:
    """List every image of the study, analysed or not (PS3.3 C.17.2.3), by study and series."""
    studies: dict[str, dict[str, dict[tuple[str, str], None]]] = {}
    for image in images:
        study, series, sop_class, instance = (
            text_value(image, keyword, 64) or ""
            for keyword in (
                "StudyInstanceUID",
                "SeriesInstanceUID",
                "SOPClassUID",
                "SOPInstanceUID",
            )
        )
        studies.setdefault(study, {}).setdefault(series, {})[sop_class, instance] = None
    items = []
    for study, all_series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = [
            _series_item(series, list(objects)) for series, objects in all_series.items()
        ]
        items.append(item)
    return items


def _series_item(series_instance_uid: str, objects: list[tuple[str, str]]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    item.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class_uid
        reference.ReferencedSOPInstanceUID = sop_instance_uid
        item.ReferencedSOPSequence.append(reference)
    return item


def _request(source: Dataset, ds: Dataset) -> Dataset | None:
    """Return the order that the images fulfil, where the images name one."""
    attributes = raw_value(source, "RequestAttributesSequence")
    order = attributes[0] if attributes and isinstance(attributes[0], Dataset) else Dataset()
    if not text_value(ds, "AccessionNumber", 16) and not order:
        return None
    item = Dataset()
    item.StudyInstanceUID = ds.StudyInstanceUID
    item.ReferencedStudySequence = Sequence()
    item.AccessionNumber = None
    _copy(ds, item, "AccessionNumber")
    item.PlacerOrderNumberImagingServiceRequest = None
    item.FillerOrderNumberImagingServiceRequest = None
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
        if not _copy(order, item, keyword):
            setattr(item, keyword, None)
    item.RequestedProcedureCodeSequence = Sequence()
    return item


def device_uid_of(model: ModelIdentity) -> str:
    return device_uid(model.name, model.version, model.weights_sha256)


def software_versions(model: ModelIdentity, software_version: str) -> list[str]:
    return [ascii_text(software_version, 64), ascii_text(f"{model.name} {model.version}", 64)]


def ascii_text(text: str, length_max: int) -> str:
    """Return text that every character set can hold, ISO 2022 JP's 7-bit half included."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in "\\~" else "?" for c in text)
    return plain[:length_max]


def code_item(value: str, scheme_designator: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme_designator
    item.CodeMeaning = meaning
    return item


def _copy(source: Dataset, target: Dataset, keyword: str) -> bool:
    """Copy one element, unread where it is unread. False when it is absent, empty or corrupt."""
    if raw_value(source, keyword) is None:
        return False
    target[keyword] = deepcopy(source[keyword])
    return True


def _is_valid(source: Dataset, keyword: str) -> bool:
    text = text_value(source, keyword, 64) or ""
    if keyword.endswith("Date"):
        return date_value(source, keyword) is not None and text.isdigit()
    if keyword.endswith("Time"):
        return _TIME.fullmatch(text) is not None
    if keyword == "PatientSex":
        return text in ("M", "F", "O")
    if keyword == "PatientAge":
        return _AGE.fullmatch(text) is not None
    if keyword == "TimezoneOffsetFromUTC":
        return _OFFSET.fullmatch(text) is not None
    return True


def _local(moment: datetime, source: Dataset, report: StudyReport) -> datetime:
    match = _OFFSET.fullmatch(text_value(source, "TimezoneOffsetFromUTC", 16) or "")
    if match is None:
        return moment.astimezone(report.timezone)
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    if offset >= timedelta(hours=24):
        return moment.astimezone(report.timezone)
    return moment.astimezone(timezone(-offset if match[1] == "-" else offset))
