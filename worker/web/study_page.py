"""One study: its images and where the model looked, its result, its report, what readers say."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from db import queries, restarts, stored
from db.engine import Transaction
from db.feedback import COMMENT_LENGTH_MAX, record_feedback
from db.tables import Verdict
from dicom_io.errors import DicomError, UnreadableDicom
from dicom_io.read import raw_value, read_header_dataset, text_value
from dicom_io.sr_text import as_text
from worker.web import render
from worker.web.access import clean_name
from worker.web.api import find_study, printable, start_again
from worker.web.context import Web, WebDep
from worker.web.presentation import Scale, shown
from worker.web.render import FormOperator, FormVisitor, PageVisitor
from worker.web.schemas import Uid

router = APIRouter(prefix="/studies/{study_instance_uid}")


@router.get("")
def study_page(
    request: Request, web: WebDep, visitor: PageVisitor, study_instance_uid: Uid
) -> Response:
    with web.database.read() as tx:
        current = _current(web, tx, study_instance_uid)
        report = stored.newest_report(tx, study_instance_uid)
        patient = _patient(web, tx, current["images"])
    return render.page(
        request,
        "study.html",
        visitor,
        **current,
        report_text=_report_text(report),
        patient=patient,
        viewer_url=web.settings.web_viewer_url.replace("{study_instance_uid}", study_instance_uid),
        comment_length_max=COMMENT_LENGTH_MAX,
    )


@router.get("/result")
def result_part(
    request: Request, web: WebDep, _visitor: PageVisitor, study_instance_uid: Uid
) -> Response:
    """What changes while a study is on its way; the page asks for it every few seconds."""
    return _part(request, web, study_instance_uid, "study_result.html")


@router.get("/images")
def images_part(
    request: Request, web: WebDep, _visitor: PageVisitor, study_instance_uid: Uid
) -> Response:
    """The images, for those that come while the page is open."""
    return _part(request, web, study_instance_uid, "study_images.html")


@router.get("/report")
def report_part(
    request: Request, web: WebDep, _visitor: PageVisitor, study_instance_uid: Uid
) -> Response:
    """The newest report as text."""
    with web.database.read() as tx:
        study = find_study(tx, study_instance_uid)
        report = stored.newest_report(tx, study_instance_uid)
    return render.fragment(
        request, "study_report.html", study=study, report_text=_report_text(report)
    )


@router.get("/current")
def current_part(
    request: Request, web: WebDep, _visitor: PageVisitor, study_instance_uid: Uid
) -> Response:
    """Timeline and deliveries, in the same way."""
    return _part(request, web, study_instance_uid, "study_current.html")


def _part(request: Request, web: Web, study_instance_uid: str, template: str) -> Response:
    with web.database.read() as tx:
        current = _current(web, tx, study_instance_uid)
    return render.fragment(request, template, **current)


@router.post("/feedback")
def give_feedback(
    web: WebDep,
    visitor: FormVisitor,
    study_instance_uid: Uid,
    verdict: Annotated[Verdict, Form()],
    comment: Annotated[str, Form(max_length=COMMENT_LENGTH_MAX)] = "",
) -> Response:
    with web.database.begin() as tx:
        kept = record_feedback(
            tx, study_instance_uid, verdict, author=visitor.name, comment=printable(comment)
        )
    if not kept:
        raise HTTPException(404, "no such study")
    return RedirectResponse(f"/studies/{study_instance_uid}#feedback", 303)


@router.post("/reprocess")
def reprocess(web: WebDep, _visitor: FormOperator, study_instance_uid: Uid) -> Response:
    start_again(web, study_instance_uid)
    return RedirectResponse(f"/studies/{study_instance_uid}", 303)


@router.post("/retry")
def retry(web: WebDep, _visitor: FormOperator, study_instance_uid: Uid) -> Response:
    with web.database.begin() as tx:
        find_study(tx, study_instance_uid)
        restarts.retry_deliveries(tx, study_instance_uid=study_instance_uid)
    return RedirectResponse(f"/studies/{study_instance_uid}", 303)


def _current(web: Web, tx: Transaction, study_instance_uid: str) -> dict[str, Any]:
    study = find_study(tx, study_instance_uid)
    instances = queries.find_instance_results(tx, study_instance_uid)
    result = shown(study, withhold=web.withholds)
    events = queries.timeline(tx, study_instance_uid)
    # The timeline would tell what the result does not, or will not once it is made.
    if web.withholds and study["intended_use"] != "inside":
        events = [replace(it, detail=None) if it.what == "predicted" else it for it in events]
    uses = {"intended_use": study["intended_use"]}  # an image's own is not among its results
    return {
        "study": study,
        "shown": result,
        "images": [
            {"row": row, "shown": shown({**row, **uses}, withhold=web.withholds)}
            for row in instances
        ],
        "events": events,
        "deliveries": queries.find_deliveries(tx, study_instance_uid),
        "feedback": queries.find_feedback(tx, study_instance_uid),
        "limits": web.interpreter.limits,
        "points": web.bundle.operating_points,
        "scale": Scale(),
        "bundle": web.bundle,
    }


def _report_text(report: stored.StoredObject | None) -> str | None:
    if report is None:
        return None
    try:
        return as_text(report.payload)
    except UnreadableDicom as error:
        return str(error)


def _patient(web: Web, tx: Transaction, images: list[dict[str, Any]]) -> dict[str, str | None]:
    """Who it is, from an image's header, where the setting shows patients."""
    if not web.settings.web_show_patients:
        return {}
    for image in images:
        file = stored.spool_name_of_image(tx, image["row"]["sop_instance_uid"])
        try:
            ds = read_header_dataset(web.services.spool.path(file or ""))
        except (DicomError, OSError):
            continue
        name = clean_name(str(raw_value(ds, "PatientName") or ""))
        return {"name": name, "id": text_value(ds, "PatientID", 64)}
    return {}
