"""Write a study's report as a Structured Report (TID 1500)."""

from io import BytesIO

from dicom_io.identity import is_our_object
from dicom_io.sr_content import report_content
from dicom_io.sr_header import report_header
from dicom_io.sr_report import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ImageFinding,
    ModelIdentity,
    Predecessor,
    SaliencyReference,
    StudyReport,
)

__all__ = [
    "COMPREHENSIVE_3D_SR",
    "COMPREHENSIVE_SR",
    "ImageFinding",
    "ModelIdentity",
    "Predecessor",
    "SaliencyReference",
    "StudyReport",
    "build_report",
    "is_our_object",
]


def build_report(report: StudyReport) -> bytes:
    """Return the report as a Part 10 file. The same report gives the same bytes.

    Raises ValueError when the report contradicts itself (a band that does not exist, an analysed
    image without its size).
    """
    ds = report_header(report)
    for element in report_content(report):
        ds[element.tag] = element
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
