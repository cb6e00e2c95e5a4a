"""Say a Comprehensive 3D SR once more as a Comprehensive SR, for who takes only that one.

A Comprehensive SR may hold all that a Comprehensive 3D SR may, except three-dimensional
coordinates (PS3.3 A.35.3.3.1 beside A.35.13.3.1).
"""

from collections.abc import Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_io.errors import UnreadableDicom
from dicom_io.references import reference
from dicom_io.sr_report import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR

# PS3.3 A.35.3.3.1
VALUE_TYPES = {
    "TEXT", "CODE", "NUM", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME",
    "SCOORD", "TCOORD", "COMPOSITE", "IMAGE", "WAVEFORM", "CONTAINER",
}  # fmt: skip
_DEPTH_MAX = 32


def as_comprehensive(
    report: bytes, sop_instance_uid: str, predecessors: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return a Part 10 file with the same content under another SOP class and instance UID.

    predecessors: (SOP class UID, SOP instance UID) of the report before it in its other SOP
    class; they are named beside the predecessor that the report names already.
    Raises UnreadableDicom if it is no Comprehensive 3D SR, or holds what the other may not.
    """
    ds = dcmread(BytesIO(report))
    if ds.SOPClassUID != COMPREHENSIVE_3D_SR:
        raise UnreadableDicom("not a Comprehensive 3D SR")
    _check(ds, 0)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID(COMPREHENSIVE_SR)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    if predecessors:
        named = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
        named.ReferencedSOPSequence.extend(reference(*it) for it in predecessors)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _check(item: Dataset, depth: int) -> None:
    if item.get("ValueType") not in VALUE_TYPES and "ReferencedContentItemIdentifier" not in item:
        raise UnreadableDicom(f"value type {item.get('ValueType')} in a Comprehensive SR")
    if depth > _DEPTH_MAX:
        raise UnreadableDicom("content nested too deeply")
    for child in item.get("ContentSequence", []):
        _check(child, depth + 1)
