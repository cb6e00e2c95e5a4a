"""The stage report: a settled study becomes one Structured Report and its deliveries.

Bytes, SOP Instance UID and outbox rows commit in one transaction, and only if the study is still
at the revision that was read. A report that would say what the newest one says is not made.
"""

import time
from dataclasses import replace
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from db import reports, restarts
from db.claims import REPORT, Claim
from db.errors import RevisionChanged
from db.reports import BuiltObject, BuiltReport, InstanceSnapshot, StudySnapshot
from db.tables import ObjectKind
from dicom_io import sr
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.read import text_value
from model.bands import Band
from worker import log, saliency
from worker.destinations import Recipient
from worker.drain import drain, is_poison, poison_reason
from worker.messages import made
from worker.report_content import (
    conclude,
    content_digest,
    is_by_another_model,
    is_said_already,
    study_report,
)
from worker.services import Services

_log = log.get("report")
_BEGAN_S = time.monotonic()


def report(services: Services, study_instance_uid: str | None) -> int:
    """Report studies that have settled; returns how many."""
    return drain(services, REPORT, study_instance_uid, 1, lambda held: _report(services, held[0]))


def _report(services: Services, held: Claim) -> None:
    if is_poison(held):
        _give_up(services, held)
        return
    with services.database.read() as tx:
        study, now = reports.snapshot(tx, held.id), tx.now
    images = [it for it in study.instances if it.is_image]
    result = conclude(images)
    digest = content_digest(services, images)
    is_new = bool(images) and not is_said_already(services, study, images, digest)
    if is_new and _analyse_again(services, held, study, images, now):
        return
    built = _build(services, study, images, digest, now) if is_new else None
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


def _analyse_again(
    services: Services,
    held: Claim,
    study: StudySnapshot,
    images: list[InstanceSnapshot],
    now: datetime,
) -> bool:
    """Where a model was replaced, have the new one look at what the old one had seen of a study.

    False if there is no need or their pixels are gone, or if inference works with another model
    than this process, which no second look would mend.
    """
    began_at = now - timedelta(seconds=time.monotonic() - _BEGAN_S)
    replaced = [
        it.sop_instance_uid
        for it in images
        if is_by_another_model(services, it) and it.finished_at and it.finished_at < began_at
    ]
    if not replaced:
        return False
    with services.database.begin() as tx:
        count = restarts.analyse_again(tx, held.id, replaced, backlog=study.backlog)
    if count:
        extra = {"study_instance_uid": study.study_instance_uid}
        _log.info("analysed again: the model was replaced", extra=extra)
        services.notify("prepare", "")
    return bool(count)


def _give_up(services: Services, held: Claim) -> None:
    with services.database.read() as tx:
        study, now = reports.snapshot(tx, held.id), tx.now
    uid, recipients = study.study_instance_uid, _recipients(services, study, study.patient_id)
    told = made.of_failure(uid, study.revision, now, recipients)
    with services.database.begin() as tx:
        reports.record_report_failure(tx, held, poison_reason(held), told)
    for message in told:
        services.notify("deliver", message.destinations[0])


def _build(
    services: Services,
    study: StudySnapshot,
    images: list[InstanceSnapshot],
    digest: str,
    now: datetime,
) -> BuiltReport:
    newest = study.newest_report
    content = study_report(services, study, images, now)
    content, pictures = _with_pictures(services, study, images, content, now)
    header = content.images[0].dataset
    document = BuiltObject(
        kind=ObjectKind.SR,
        sop_class_uid=content.sop_class_uid,
        sop_instance_uid=content.sop_instance_uid,
        series_instance_uid=content.series_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=sr.build_report(content),
        destinations=_destinations(services, study, header, ObjectKind.SR),
    )
    recipients = _recipients(services, study, text_value(header, "PatientID", 64))
    return BuiltReport(
        predecessor_uid=newest.sop_instance_uid if newest else None,
        content_digest=digest,
        objects=(document, *pictures, *made.of_report(content, recipients, study.told)),
    )


def _with_pictures(
    services: Services,
    study: StudySnapshot,
    images: list[InstanceSnapshot],
    content: sr.StudyReport,
    now: datetime,
) -> tuple[sr.StudyReport, list[BuiltObject]]:
    """Draw the most suspicious images that are shown, and refer to the pictures."""
    if not services.settings.saliency:
        return content, []
    pairs = sorted(
        (
            (index, image)
            for index, image in enumerate(images)
            if content.is_shown(content.images[index]) and image.band != Band.NEGATIVE
        ),
        key=lambda pair: -(pair[1].probability or 0.0),
    )
    findings = list(content.images)
    drawn_now: list[BuiltObject] = []
    for index, image in pairs[: saliency.PICTURES_MAX]:
        to = _destinations(services, study, findings[index].dataset, ObjectKind.SALIENCY)
        drawn = saliency.make_secondary_capture(
            services,
            image,
            findings[index],
            content,
            made_already=study.pictures,
            destinations=to,
            number=len(study.pictures) + len(drawn_now) + 1,
            now=now,
        )
        if drawn is None:
            continue
        reference, payload = drawn
        findings[index] = replace(findings[index], saliency=reference)
        if payload is not None:
            drawn_now.append(_picture(reference, payload, to))
    return replace(content, images=tuple(findings)), drawn_now


def _picture(
    reference: sr.SaliencyReference, payload: bytes, destinations: tuple[str, ...]
) -> BuiltObject:
    return BuiltObject(
        kind=ObjectKind.SALIENCY,
        sop_class_uid=reference.sop_class_uid,
        sop_instance_uid=reference.sop_instance_uid,
        series_instance_uid=reference.series_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=payload,
        destinations=destinations,
    )


def _destinations(
    services: Services, study: StudySnapshot, header: Dataset, kind: ObjectKind
) -> tuple[str, ...]:
    """Where an object of a report goes."""
    recipients = _recipients(services, study, text_value(header, "PatientID", 64))
    return tuple(it.name for it in recipients if kind in it.objects)


def _recipients(
    services: Services, study: StudySnapshot, patient_id: str | None
) -> tuple[Recipient, ...]:
    """Who may be told of a study.

    Nobody in shadow mode, nor from backlog, nor of a retracted study or a test patient.
    """
    settings = services.settings
    if not settings.delivery or study.backlog or study.retracted:
        return ()
    pattern = settings.test_patient_pattern
    if pattern is not None and pattern.search(patient_id or ""):
        return ()
    return settings.recipients
