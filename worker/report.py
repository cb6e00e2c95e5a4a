"""The stage report: a settled study becomes one Structured Report and its deliveries.

Bytes, SOP Instance UID and outbox rows commit in one transaction, and only if the study is still
at the revision that was read. A report that would say what the newest one says is not made.
"""

import hashlib
import json
from datetime import datetime
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from db import reports
from db.claims import REPORT, Claim
from db.errors import RevisionChanged
from db.reports import BuiltObject, BuiltReport, InstanceSnapshot, StudyResult, StudySnapshot
from db.tables import ObjectKind
from dicom_io import eligibility, sr
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.errors import DicomError
from dicom_io.read import age_years, read_header_dataset, text_value
from worker import log
from worker.pipeline import drain, is_poison, poison_reason
from worker.services import Services
from worker.version import VERSION

TEMPLATE_VERSION = 1  # raised when the same study would be reported in other words

_log = log.get("report")


def report(services: Services, study_instance_uid: str | None) -> int:
    """Report studies that have settled; returns how many."""
    return drain(services, REPORT, study_instance_uid, 1, lambda held: _report(services, held[0]))


def _report(services: Services, held: Claim) -> None:
    if is_poison(held):
        with services.database.begin() as tx:
            reports.record_report_failure(tx, held, poison_reason(held))
        return
    with services.database.read() as tx:
        study, now = reports.snapshot(tx, held.id), tx.now
    images = [it for it in study.instances if it.is_image]
    result = conclude(images)
    built = _build(services, study, images, result, now) if images else None
    try:
        with services.database.begin() as tx:
            reports.record_report(tx, held, study.revision, result, built)
    except RevisionChanged as changed:  # the study is due again, as it is now
        _log.info("%s", changed)
        return
    if built is not None:
        extra = {"study_instance_uid": study.study_instance_uid}
        _log.info("report made for revision %s", study.revision, extra=extra)
        for destination in built.destinations:
            services.notify("deliver", destination)


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


def _build(
    services: Services,
    study: StudySnapshot,
    images: list[InstanceSnapshot],
    result: StudyResult,
    now: datetime,
) -> BuiltReport | None:
    digest = _content_digest(services, images)
    newest = study.newest_report
    if newest is not None and newest.content_digest == digest:
        return None
    findings = tuple(_finding(services, study, image) for image in images)
    sop_instance_uid = generate_uid(prefix=None)
    series_instance_uid = newest.series_instance_uid if newest else generate_uid(prefix=None)
    settings, bundle = services.settings, services.bundle
    content = sr.StudyReport(
        images=findings,
        model=sr.ModelIdentity(
            name=bundle.name,
            version=bundle.version,
            weights_sha256=bundle.weights_sha256,
            preprocess_version=bundle.preprocess_version,
        ),
        probability=result.probability,
        band=result.band,
        operating_point=_operating_point(services),
        prevalence=settings.prevalence,
        intended_use=result.intended_use or _intended_use(services, findings[0].dataset),
        intended_use_text=bundle.intended_use.text,
        unlike_training=_highest_is_unlike(services, images),
        withhold=settings.outside_intended_use == "withhold",
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_instance_uid,
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
    document = BuiltObject(
        kind=ObjectKind.SR,
        sop_class_uid=content.sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=sr.build_report(content),
        destinations=_destinations(services, study, findings[0].dataset),
    )
    return BuiltReport(
        predecessor_uid=newest.sop_instance_uid if newest else None,
        content_digest=digest,
        objects=(document,),
    )


def _content_digest(services: Services, images: list[InstanceSnapshot]) -> str:
    """Over everything that shows in a report: evidence, headers, model, settings, template.

    A header is told by its spool file's name, which a corrected one changes.
    """
    settings, bundle = services.settings, services.bundle
    limits = services.interpreter.limits
    shown = {
        "images": sorted(
            (
                *(it.sop_instance_uid, it.spool_name, it.state, it.reason, it.probability, it.band),
                _is_unlike(services, it),
            )
            for it in images
        ),
        "model": (bundle.name, bundle.version, bundle.weights_sha256),
        "settings": (settings.prevalence, settings.outside_intended_use, settings.timezone),
        "bands": (limits.review_from, limits.positive_from),
        "template": TEMPLATE_VERSION,
    }
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _is_unlike(services: Services, image: InstanceSnapshot) -> bool:
    return image.ood_score is not None and services.bundle.ood.is_outside(image.ood_score)


def _highest_is_unlike(services: Services, images: list[InstanceSnapshot]) -> bool:
    """Whether the image that the study's result comes from is unlike the training images."""
    highest = _highest(images)
    return highest is not None and _is_unlike(services, highest)


def _finding(services: Services, study: StudySnapshot, image: InstanceSnapshot) -> sr.ImageFinding:
    dataset: Dataset
    try:
        dataset = read_header_dataset(services.spool.path(image.spool_name))
    except DicomError:  # it was readable when it came: only the evidence is left to name
        dataset = Dataset()
        dataset.StudyInstanceUID = study.study_instance_uid
        dataset.SOPInstanceUID = image.sop_instance_uid
    return sr.ImageFinding(
        dataset=dataset, probability=image.probability, band=image.band, reason=image.reason
    )


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


def _destinations(services: Services, study: StudySnapshot, header: Dataset) -> tuple[str, ...]:
    """Where a report goes: nowhere in shadow mode, from backlog, or of a test patient."""
    settings = services.settings
    if not settings.delivery or study.backlog:
        return ()
    pattern = settings.test_patient_pattern
    if pattern is not None and pattern.search(text_value(header, "PatientID", 64) or ""):
        return ()
    return tuple(str(destination) for destination in settings.destinations)
