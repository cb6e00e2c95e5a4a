"""The SR's content tree: TID 1500 with one planar measurement group (TID 1410) for each image."""

import re

import highdicom.sr as hd
import numpy as np
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicom_io.exposure import exposure_of
from dicom_io.identity import MANUFACTURER, MODEL_NAME, derived_uid
from dicom_io.made import ascii_text, device_uid_of, software_versions
from dicom_io.read import integer_value, text_value
from dicom_io.sr_header import CODING_SCHEME
from dicom_io.sr_report import ImageFinding, StudyReport

LANGUAGE = hd.CodedConcept("en-US", "RFC5646", "English (United States)")
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
LUNG = Code("39607008", "SCT", "Lung")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")  # of CID 100
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
COMMENT = Code("121106", "DCM", "Comment")
ILLUSTRATION = Code("121200", "DCM", "Illustration of ROI")
CONCLUSION = Code("121077", "DCM", "Conclusion")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
BAND = Code("band", CODING_SCHEME, "Review band")
# PS3.16 CID 240. The order of the bands is that of the probability that pneumonia is present.
PRESENCE = {
    "negative": Code("272519000", "SCT", "Absent"),
    "review": Code("373068000", "SCT", "Undetermined"),
    "positive": Code("52101004", "SCT", "Present"),
}
RESEARCH_STATEMENT = (
    "Result of a research algorithm. Not for diagnostic use. Not verified by a physician."
)
FRAME_STATEMENT = "the outline is the frame of the image, not a lesion"
OUTLINE_STATEMENT = "the outline is where the model looked, not a segmented lesion"


def report_content(report: StudyReport) -> Dataset:
    """Return the root CONTAINER item."""
    root = hd.ContainerContentItem(
        name=codes.cid7021.ImagingMeasurementReport, is_content_continuous=False, template_id="1500"
    )
    root.ContentSequence = hd.ContentSequence()
    root.ContentSequence.extend(hd.LanguageOfContentItemAndDescendants(LANGUAGE))
    root.ContentSequence.extend(_observation_context(report))
    root.ContentSequence.append(
        hd.CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=IMAGING_PROCEDURE,
            relationship_type=Relation.HAS_CONCEPT_MOD,
        )
    )
    shown = [image for image in report.images if report.is_shown(image)]
    if shown:
        root.ContentSequence.append(_image_library(shown))
    root.ContentSequence.append(_statements(report))  # first what a reader must know
    if shown:
        measurements = _container(codes.DCM.ImagingMeasurements)
        for image in shown:
            measurements.ContentSequence.extend(_measurement_group(image, report))
        root.ContentSequence.append(measurements)
    return root


def _observation_context(report: StudyReport) -> hd.ObservationContext:
    attributes = hd.DeviceObserverIdentifyingAttributes(
        uid=device_uid_of(report.model),
        name=ascii_text(f"{report.model.name} {report.model.version}", 64),
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
    )
    return hd.ObservationContext(
        observer_device_context=hd.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=attributes
        )
    )


def _image_library(images: list[ImageFinding]) -> hd.ContainerContentItem:
    """TID 1600 with what a header can be relied on to hold: modality and size."""
    library = _container(codes.DCM.ImageLibrary)
    group = _container(codes.DCM.ImageLibraryGroup)
    for image in images:
        item = hd.ImageContentItem(
            name=Code("260753009", "SCT", "Source"),
            referenced_sop_class_uid=_uid(image, "SOPClassUID"),
            referenced_sop_instance_uid=_uid(image, "SOPInstanceUID"),
            relationship_type=Relation.CONTAINS,
        )
        item.ContentSequence = hd.ContentSequence()
        modality = text_value(image.dataset, "Modality", 16)
        if modality in ("CR", "DX"):
            name = "Computed Radiography" if modality == "CR" else "Digital Radiography"
            item.ContentSequence.append(
                hd.CodeContentItem(
                    name=codes.DCM.Modality,
                    value=Code(modality, "DCM", name),
                    relationship_type=Relation.HAS_ACQ_CONTEXT,
                )
            )
        sizes = zip(
            (codes.DCM.PixelDataRows, codes.DCM.PixelDataColumns), _size(image), strict=True
        )
        for concept, size in sizes:
            item.ContentSequence.append(
                hd.NumContentItem(
                    name=concept,
                    value=size,
                    unit=Code("{pixels}", "UCUM", "Pixels"),
                    relationship_type=Relation.HAS_ACQ_CONTEXT,
                )
            )
        group.ContentSequence.append(item)
    library.ContentSequence.append(group)
    return library


def _measurement_group(
    image: ImageFinding, report: StudyReport
) -> hd.PlanarROIMeasurementsAndQualitativeEvaluations:
    uid = _uid(image, "SOPInstanceUID")
    outline = FRAME_STATEMENT if image.outline is None else OUTLINE_STATEMENT
    group = hd.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(
            uid=derived_uid(f"pneumonia on {uid}"), identifier=f"Pneumonia: {outline}"
        ),
        referenced_region=_region(image),
        finding_type=PNEUMONIA,
        finding_sites=[hd.FindingSite(anatomic_location=LUNG)],
        algorithm_id=_algorithm(report),
        measurements=[
            hd.Measurement(
                name=CERTAINTY, value=_percent_value(image.probability), unit=codes.UCUM.Percent
            )
        ],
        qualitative_evaluations=[
            hd.QualitativeEvaluation(name=PNEUMONIA, value=PRESENCE[str(image.band)]),
            hd.QualitativeEvaluation(
                name=BAND,
                value=Code(str(image.band), CODING_SCHEME, str(image.band).capitalize()),
            ),
        ],
    )
    said = [
        f"{_image_name(image, report)}.",
        probability_text(image.probability, report.prevalence),
        f"Band: {image.band}.",
        f"In the image, {outline}.",
    ]
    if image.saliency is not None:
        said.append("A picture of where the model looked is in a series of its own.")
    said += warnings(report, unlike_training=image.unlike_training)
    group[0].ContinuityOfContent = "SEPARATE"
    items = group[0].ContentSequence
    first = next(n for n, item in enumerate(items) if item.RelationshipType == "CONTAINS")
    items.insert(first, _text(COMMENT, " ".join(said)))
    if image.saliency is not None:
        items.append(
            hd.ImageContentItem(
                name=ILLUSTRATION,
                referenced_sop_class_uid=image.saliency.sop_class_uid,
                referenced_sop_instance_uid=image.saliency.sop_instance_uid,
                relationship_type=Relation.CONTAINS,
            )
        )
    return group


def _region(image: ImageFinding) -> hd.ImageRegion:
    """Outline the whole image, or where the model looked (PS3.3 C.18.6: column, row)."""
    rows, columns = _size(image)
    frame = ((0.0, 0.0), (columns, 0.0), (columns, rows), (0.0, rows), (0.0, 0.0))
    return hd.ImageRegion(
        graphic_type=hd.GraphicTypeValues.POLYLINE,
        graphic_data=np.array(image.outline or frame, dtype=np.float64),
        source_image=hd.SourceImageForRegion(
            referenced_sop_class_uid=_uid(image, "SOPClassUID"),
            referenced_sop_instance_uid=_uid(image, "SOPInstanceUID"),
        ),
    )


def _algorithm(report: StudyReport) -> hd.AlgorithmIdentification:
    model = report.model
    return hd.AlgorithmIdentification(
        name=ascii_text(model.name, 64),
        version=ascii_text(model.version, 64),
        manufacturer=MANUFACTURER,
        family=codes.DCM.ArtificialIntelligence,
        parameters=[
            ascii_text(f"operating point: {report.operating_point}", 1024),
            f"assumed prevalence: {report.prevalence:g}",
            f"weights sha256: {ascii_text(model.weights_sha256, 64)}",
            f"preprocess version: {model.preprocess_version}",
            f"software: {software_versions(model, report.software_version)[0]}",
        ],
    )


def _statements(report: StudyReport) -> hd.ContainerContentItem:
    """Everything that a reader must know besides the numbers; this container takes TEXT."""
    container = _container(QUALITATIVE_EVALUATIONS)
    said = [
        RESEARCH_STATEMENT,
        intended_use_text(report),
        *(
            not_shown_text(image, report)
            for image in report.images
            if not report.is_shown(image) and not (image.is_analysed and report.is_withheld)
        ),
        model_text(report),
    ]
    container.ContentSequence.append(_text(CONCLUSION, conclusion_text(report)))
    container.ContentSequence.extend([_text(COMMENT, text) for text in said])
    return container


def probability_text(probability: float | None, prevalence: float) -> str:
    """Return the sentence that a tired reader cannot misread."""
    return (
        f"Research algorithm: probability that pneumonia is PRESENT {percent(probability)} "
        f"(assumed prevalence {prevalence * 100:g} %); not a rule-out."
    )


def conclusion_text(report: StudyReport) -> str:
    warning = " ".join(warnings(report, unlike_training=report.unlike_training))
    if report.is_withheld:
        return f"No probability is reported for this study. {warning}"
    if report.probability is None or report.band is None:
        return "No image of this study was analysed. This says nothing about pneumonia."
    analysed = [image for image in report.images if image.is_analysed]
    exposures = len({exposure_of(image.dataset) for image in analysed})
    of = f"Highest of {len(analysed)} analysed of {len(report.images)} images"
    if exposures < len(analysed):
        of += f", which are {exposures} exposure{'s' if exposures > 1 else ''}"
    said = probability_text(report.probability, report.prevalence)
    return f"{said} Band: {report.band}. {of}. {warning}".rstrip()


def warnings(report: StudyReport, *, unlike_training: bool) -> list[str]:
    """Return the warning beside a number (or instead of it), with each reason; else nothing."""
    why = []
    if report.intended_use == "outside":
        why.append("the patient's age is outside the intended use of the model")
    elif report.intended_use != "inside":
        why.append("the patient's age is unknown, so the intended use may not cover it")
    if unlike_training:
        why.append("the image is unlike those that the model was trained on")
    if not why:
        return []
    what = "Probability withheld" if report.is_withheld else "Not validated for this patient"
    if report.intended_use == "inside" and not report.is_withheld:
        what = "Not to be relied on"
    return [f"WARNING: {what}: {'; and '.join(why)}."]


def intended_use_text(report: StudyReport) -> str:
    """Say for whom the model was made, and whether this patient and picture are among them."""
    age = {"inside": "inside it", "outside": "outside of it"}.get(report.intended_use, "unknown")
    made_for = ascii_text(report.intended_use_text, 512)
    said = f"Intended use of the model: {made_for} The age of this patient is {age}."
    if report.unlike_training:
        said += " The image is unlike those that the model was trained on."
    return said


def model_text(report: StudyReport) -> str:
    """Say which model spoke, where its bands begin, and how it did on its validation set."""
    name = ascii_text(f"{report.model.name} {report.model.version}", 128)
    return f"Model: {name}. Bands: {ascii_text(report.operating_point, 768)}."


def not_shown_text(image: ImageFinding, report: StudyReport) -> str:
    """Say of an image why its probability is not in the report."""
    name = _image_name(image, report)
    uid = _uid(image, "SOPInstanceUID")
    if image.is_analysed:
        why = "unlike those that the model was trained on"
        return f"{name}: probability withheld, the image is {why}. ({uid})"
    reason = ascii_text(image.reason or "no reason recorded", 256)
    return f"{name} was not analysed: {reason}. ({uid})"


def _image_name(image: ImageFinding, report: StudyReport) -> str:
    """Name an image as a viewer does, as far as its header tells."""
    number = next(n for n, other in enumerate(report.images, start=1) if other is image)
    view = text_value(image.dataset, "ViewPosition", 16) or ""
    series = integer_value(image.dataset, "SeriesNumber")
    instance = integer_value(image.dataset, "InstanceNumber")
    details = [
        *([view] if re.fullmatch(r"[A-Z]{2,4}", view, re.ASCII) else []),
        *([f"series {series}"] if series is not None else []),
        *([f"image {instance}"] if instance is not None else []),
    ]
    said = f" ({', '.join(details)})" if details else ""
    return f"Image {number} of {len(report.images)}{said}"


def percent(probability: float | None) -> str:
    value = _percent_value(probability)
    return f"{value:.1f} %"


def _percent_value(probability: float | None) -> float:
    if probability is None or not 0 <= probability <= 1:
        raise ValueError(f"a probability from 0 to 1 is needed, got {probability}")
    return round(probability * 100, 1)


def _container(name: Code) -> hd.ContainerContentItem:
    """Separate items: a viewer then shows each with the name of what it says."""
    item = hd.ContainerContentItem(
        name=name, is_content_continuous=False, relationship_type=Relation.CONTAINS
    )
    item.ContentSequence = hd.ContentSequence()
    return item


def _text(name: Code, value: str) -> hd.TextContentItem:
    return hd.TextContentItem(name=name, value=value, relationship_type=Relation.CONTAINS)


def _uid(image: ImageFinding, keyword: str) -> str:
    return text_value(image.dataset, keyword, 64) or ""


def _size(image: ImageFinding) -> tuple[int, int]:
    rows = integer_value(image.dataset, "Rows")
    columns = integer_value(image.dataset, "Columns")
    if not rows or not columns:
        raise ValueError("an analysed image must have Rows and Columns")
    return rows, columns
