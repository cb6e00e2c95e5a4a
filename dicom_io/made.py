"""What everything that we make has in common: patient and study of the image, and its maker.

What is Type 2 and missing in the image is empty in what we make; what is invalid counts as
missing. Elements are copied as they are, so that names keep the bytes of their character set.
"""

import re
from copy import deepcopy
from datetime import datetime, timedelta, timezone, tzinfo

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_io.identity import MANUFACTURER, MODEL_NAME, derived_uid, device_uid
from dicom_io.read import date_value, raw_value, text_value
from dicom_io.sr_report import ModelIdentity

IMPLEMENTATION_CLASS_UID = derived_uid("cxr-worker implementation")

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


def empty_file(sop_class_uid: str, sop_instance_uid: str) -> FileDataset:
    """Return a Part 10 data set that names itself and holds nothing else."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = "CXR_WORKER"
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = sop_instance_uid
    return ds


def set_equipment(ds: Dataset, model: ModelIdentity, software_version: str) -> None:
    """General Equipment, and the contributing equipment whose UID changes with the model."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.DeviceSerialNumber = model.weights_sha256[:16]
    ds.SoftwareVersions = software_versions(model, software_version)
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code_item(*codes.DCM.ProcessingEquipment[:3])]
    equipment.Manufacturer = MANUFACTURER
    equipment.ManufacturerModelName = MODEL_NAME
    equipment.SoftwareVersions = ds.SoftwareVersions
    equipment.DeviceUID = device_uid_of(model)
    ds.ContributingEquipmentSequence = [equipment]


def copy_patient_and_study(source: Dataset, ds: Dataset) -> None:
    copy_element(source, ds, "SpecificCharacterSet")
    for keyword in _TYPE_2:
        if not _is_valid(source, keyword) or not copy_element(source, ds, keyword):
            setattr(ds, keyword, None)
    for keyword in _TYPE_3:
        if _is_valid(source, keyword):
            copy_element(source, ds, keyword)
    ds.StudyInstanceUID = text_value(source, "StudyInstanceUID", 64)


def copy_element(source: Dataset, target: Dataset, keyword: str) -> bool:
    """Copy one element, unread where it is unread. False when it is absent, empty or corrupt."""
    if raw_value(source, keyword) is None:
        return False
    target[keyword] = deepcopy(source[keyword])
    return True


def local_time(moment: datetime, source: Dataset, default: tzinfo) -> datetime:
    """Return a moment in the time zone of the source, where it names one (0008,0201)."""
    match = _OFFSET.fullmatch(text_value(source, "TimezoneOffsetFromUTC", 16) or "")
    if match is None:
        return moment.astimezone(default)
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    if offset >= timedelta(hours=24):
        return moment.astimezone(default)
    return moment.astimezone(timezone(-offset if match[1] == "-" else offset))


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
