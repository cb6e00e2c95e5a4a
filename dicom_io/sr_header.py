"""The SR's attributes outside its content tree.

They are set here and not by highdicom's SR classes, which stamp the time of the call into the
object and raise where a source attribute is absent or invalid: the same report must be the same
bytes, and a hole in an image's header must not cost the study its report.
"""

from datetime import datetime

from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from dicom_io.identity import MANUFACTURER, derived_uid
from dicom_io.made import (
    copy_element,
    copy_patient_and_study,
    empty_file,
    local_time,
    set_equipment,
)
from dicom_io.read import raw_value, text_value
from dicom_io.references import reference
from dicom_io.sr_report import StudyReport

SERIES_DESCRIPTION = "AI result pneumonia, not for diagnostic use"
CODING_SCHEME = "99CXRWORKER"


def report_header(report: StudyReport) -> FileDataset:
    """Return a data set with everything but the content tree."""
    source = report.images[0].dataset
    ds = empty_file(report.sop_class_uid, report.sop_instance_uid)
    copy_patient_and_study(source, ds)
    _set_series_and_equipment(report, ds)
    _set_document(report, ds, local_time(report.created_at, source, report.timezone))
    return ds


def _set_series_and_equipment(report: StudyReport, ds: Dataset) -> None:
    ds.Modality = "SR"
    ds.SeriesInstanceUID = report.series_instance_uid
    ds.SeriesNumber = report.series_number
    ds.SeriesDescription = SERIES_DESCRIPTION
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    set_equipment(ds, report.model, report.software_version)


def _set_document(report: StudyReport, ds: Dataset, created_at: datetime) -> None:
    ds.InstanceNumber = report.instance_number
    ds.ContentDate = ds.InstanceCreationDate = created_at.strftime("%Y%m%d")
    ds.ContentTime = ds.InstanceCreationTime = created_at.strftime("%H%M%S")
    ds.ContentQualification = "RESEARCH"
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CurrentRequestedProcedureEvidenceSequence = _evidence(report)
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


def _evidence(report: StudyReport) -> list[Dataset]:
    """List every image of the study, analysed or not, and the pictures (PS3.3 C.17.2.3)."""
    studies: dict[str, dict[str, dict[tuple[str, str], None]]] = {}
    for image in report.images:
        study, series, sop_class, instance = (
            text_value(image.dataset, keyword, 64) or ""
            for keyword in (
                "StudyInstanceUID",
                "SeriesInstanceUID",
                "SOPClassUID",
                "SOPInstanceUID",
            )
        )
        studies.setdefault(study, {}).setdefault(series, {})[sop_class, instance] = None
        made = image.saliency
        if made is not None and report.is_shown(image):
            picture = made.sop_class_uid, made.sop_instance_uid
            studies[study].setdefault(made.series_instance_uid, {})[picture] = None
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
    item.ReferencedSOPSequence = [reference(*it) for it in objects]
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
    copy_element(ds, item, "AccessionNumber")
    item.PlacerOrderNumberImagingServiceRequest = None
    item.FillerOrderNumberImagingServiceRequest = None
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
        if not copy_element(order, item, keyword):
            setattr(item, keyword, None)
    item.RequestedProcedureCodeSequence = Sequence()
    return item
