"""What a report says of a study: its conclusion, each image's finding, and a digest of it all."""

import errno
import hashlib
import json
from datetime import datetime
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from db.reports import InstanceSnapshot, StudyResult, StudySnapshot
from dicom_io import eligibility, sr
from dicom_io.errors import DicomError
from dicom_io.made import copy_patient_and_study
from dicom_io.read import age_years, read_header_dataset
from dicom_io.shutter import visible
from dicom_io.sr_report import Outline
from worker import saliency
from worker.services import Services
from worker.version import VERSION

NOT_KNOWN = "not known any more"  # of a model that was replaced
TEMPLATE_VERSION = 3  # raised when the same study would be reported in other words


def conclude(images: list[InstanceSnapshot]) -> StudyResult:
    """A study's result: that of its most suspicious image."""
    highest = _highest(images)
    if highest is None:
        reasons = sorted({it.reason for it in images if it.reason})
        note = "; ".join(reasons) if images else "no image in this study"
        return StudyResult(
            intended_use=None,
            probability=None,
            band=None,
            model_name=None,
            model_version=None,
            note=note,
        )
    return StudyResult(
        intended_use=highest.intended_use,
        probability=highest.probability,
        band=highest.band,
        model_name=highest.model_name,
        model_version=highest.model_version,
        note=None,
    )


def _highest(images: list[InstanceSnapshot]) -> InstanceSnapshot | None:
    analysed = [it for it in images if it.probability is not None]
    return max(analysed, key=lambda it: it.probability or 0.0, default=None)


def study_report(
    services: Services,
    study: StudySnapshot,
    images: list[InstanceSnapshot],
    now: datetime,
) -> sr.StudyReport:
    """What the report says, before its pictures are drawn.

    Raises FileNotFoundError where none of the images can be read: it is the spool that is missing.
    """
    headers = [_header(services, image) for image in images]
    readable = next((header for header in headers if header is not None), None)
    if readable is None:
        raise FileNotFoundError(errno.ENOENT, "none of the study's files can be read")
    newest, settings, bundle = study.newest_report, services.settings, services.bundle
    findings = tuple(
        _lost(study, image, readable) if header is None else _finding(services, image, header)
        for image, header in zip(images, headers, strict=True)
    )
    shown = max(findings, key=lambda finding: finding.probability or -1.0)
    highest = _highest(images)
    by_another = highest is not None and is_by_another_model(services, highest)
    return sr.StudyReport(
        images=findings,
        model=_model(services, highest if by_another else None),
        probability=shown.probability,
        band=shown.band,
        operating_point=NOT_KNOWN if by_another else _operating_point(services),
        prevalence=settings.prevalence,
        intended_use=_intended_use(services, shown.dataset),
        intended_use_text=bundle.intended_use.text,
        unlike_training=shown.unlike_training,
        withhold=settings.outside_intended_use == "withhold",
        sop_instance_uid=generate_uid(prefix=None),
        series_instance_uid=newest.series_instance_uid if newest else generate_uid(prefix=None),
        created_at=now,
        software_version=VERSION,
        timezone=ZoneInfo(settings.timezone),
        instance_number=study.revision,
        predecessor=None
        if newest is None
        else sr.Predecessor(
            sop_class_uid=newest.sop_class_uid,
            sop_instance_uid=newest.sop_instance_uid,
            series_instance_uid=newest.series_instance_uid,
        ),
    )


def is_by_another_model(services: Services, image: InstanceSnapshot) -> bool:
    """Whether an image was analysed by another model than the one that is in use now."""
    bundle = services.bundle
    model = (image.model_name, image.model_version)
    return image.probability is not None and model != (bundle.name, bundle.version)


def content_digest(services: Services, images: list[InstanceSnapshot]) -> str:
    """Over everything that shows in a report: 32 characters for what is said, 32 for its frame.

    Said are evidence, headers and results; a header is told by its spool file's name, which a
    corrected one changes. The frame is model, settings and template, the same for every study.
    """
    settings, bundle = services.settings, services.bundle
    limits = services.interpreter.limits
    said = sorted(
        (
            *(it.sop_instance_uid, it.spool_name, it.state, it.reason, it.probability, it.band),
            it.ood_score,
            it.saliency.data.hex() if it.saliency else None,
        )
        for it in images
    )
    frame = {
        "model": (bundle.name, bundle.version, bundle.weights_sha256),
        "settings": (settings.prevalence, settings.outside_intended_use, settings.timezone),
        "saliency": settings.saliency,
        "bands": (limits.review_from, limits.positive_from),
        "template": TEMPLATE_VERSION,
    }
    return _short_digest(said) + _short_digest(frame)


def _short_digest(shown: object) -> str:
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:32]


def is_said_already(
    services: Services, study: StudySnapshot, images: list[InstanceSnapshot], digest: str
) -> bool:
    """Whether the newest report says all of this, of which `digest` is the content digest.

    Of results of another model it is enough that they are the same: the frame that they were
    reported in is no longer known, and what was reported stays.
    """
    newest = study.newest_report
    if newest is None:
        return False
    if any(is_by_another_model(services, it) for it in images):
        return newest.content_digest[:32] == digest[:32]
    return newest.content_digest == digest


def _header(services: Services, image: InstanceSnapshot) -> Dataset | None:
    try:
        return read_header_dataset(services.spool.path(image.spool_name))
    except (DicomError, FileNotFoundError):  # it was readable when it came
        return None


def _finding(services: Services, image: InstanceSnapshot, header: Dataset) -> sr.ImageFinding:
    return sr.ImageFinding(
        dataset=header,
        probability=image.probability,
        band=image.band,
        reason=image.reason,
        outline=_outline(services, image, header),
        unlike_training=_is_unlike(services, image),
    )


def _outline(services: Services, image: InstanceSnapshot, header: Dataset) -> Outline | None:
    """In the pixels of the whole image, of which the model saw what the Display Shutter leaves."""
    if not services.settings.saliency:
        return None
    rows, columns = visible(header)
    line = saliency.outline_of(image, rows.stop - rows.start, columns.stop - columns.start)
    if line is None:
        return None
    return tuple((column + columns.start, row + rows.start) for column, row in line)


def _lost(study: StudySnapshot, image: InstanceSnapshot, another: Dataset) -> sr.ImageFinding:
    """What is known of an object whose file is not: enough to name it as evidence.

    The patient is that of another image of the study.
    """
    ds = Dataset()
    copy_patient_and_study(another, ds)
    ds.StudyInstanceUID = study.study_instance_uid
    ds.SeriesInstanceUID = image.series_instance_uid
    ds.SOPClassUID = image.sop_class_uid
    ds.SOPInstanceUID = image.sop_instance_uid
    return sr.ImageFinding(dataset=ds, reason="the stored file can no longer be read")


def _model(services: Services, by_another: InstanceSnapshot | None) -> sr.ModelIdentity:
    """The model in use, or the one that an image was analysed by, as far as that is known."""
    bundle = services.bundle
    if by_another is None:
        return sr.ModelIdentity(
            name=bundle.name,
            version=bundle.version,
            weights_sha256=bundle.weights_sha256,
            preprocess_version=bundle.preprocess_version,
        )
    return sr.ModelIdentity(
        name=by_another.model_name or NOT_KNOWN,
        version=by_another.model_version or NOT_KNOWN,
        weights_sha256=NOT_KNOWN,
        preprocess_version=bundle.preprocess_version,
    )


def _is_unlike(services: Services, image: InstanceSnapshot) -> bool:
    return image.ood_score is not None and services.bundle.ood.is_outside(image.ood_score)


def _intended_use(services: Services, header: Dataset) -> str:
    use = services.bundle.intended_use
    return eligibility.intended_use(age_years(header), use.min_age_years, use.max_age_years)


def _operating_point(services: Services) -> str:
    points, limits = services.bundle.operating_points, services.interpreter.limits
    return (
        f"review from {limits.review_from:.1%}, positive from {limits.positive_from:.1%}; "
        f"on the validation set, rule-out has sensitivity {points.rule_out.sensitivity:.1%} "
        f"and specificity {points.rule_out.specificity:.1%}, rule-in sensitivity "
        f"{points.rule_in.sensitivity:.1%} and specificity {points.rule_in.specificity:.1%}"
    )
