"""The JSON API, for machines and for the page's own pictures: the same queries as the commands."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import AwareDatetime

from db import queries, restarts, search, statistics, stored
from db.engine import Transaction
from db.feedback import record_feedback
from db.search import BadCursor
from dicom_io.errors import DicomError
from worker.health import assess
from worker.saliency_map import as_map
from worker.web import schemas
from worker.web.access import Visitor, clean_name, require_operator, require_visitor
from worker.web.context import Web, WebDep
from worker.web.pictures import overlay
from worker.web.schemas import FiltersQuery, Problem, Uid

VisitorDep = Annotated[Visitor, Depends(require_visitor)]
_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No valid token."},
    403: {"model": Problem, "description": "From another site's page, or a foreign host name."},
    413: {"model": Problem, "description": "The request is too large."},
    503: {"model": Problem, "description": "The database cannot be reached."},
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such study, image or object."}
}
_BAD_CURSOR: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "A cursor of no page of this order."}
}
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "The picture."},
    **_NOT_FOUND,
}
_DICOM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/dicom": {}}, "description": "A Part 10 file."},
    **_NOT_FOUND,
}

router = APIRouter(
    prefix="/api/v1", dependencies=[Depends(require_visitor)], responses=_ANSWERS, tags=["results"]
)


@router.get("/studies", responses=_BAD_CURSOR)
def list_studies(web: WebDep, filters: FiltersQuery) -> schemas.StudyPage:
    """Studies, a page at a time."""
    return _page(web, filters)


@router.post("/studies/search", responses=_BAD_CURSOR)
def search_studies(web: WebDep, filters: schemas.Search) -> schemas.StudyPage:
    """Studies by what names a patient as well, which belongs into no URL."""
    identity = {"accession_number": filters.accession_number, "patient_id": filters.patient_id}
    return _page(web, filters, **identity)


def _page(web: Web, filters: schemas.Filters, **identity: str | None) -> schemas.StudyPage:
    try:
        with web.database.read() as tx:
            page = search.page(
                tx,
                filters.wanted(**identity),
                filters.sort,
                size=filters.limit,
                cursor=filters.cursor,
            )
    except BadCursor as error:
        raise HTTPException(400, str(error)) from error
    studies = [schemas.Study.model_validate(row) for row in page.rows]
    return schemas.StudyPage(studies=studies, next_cursor=page.next_cursor)


@router.get("/studies/{study_instance_uid}", responses=_NOT_FOUND)
def get_study(web: WebDep, study_instance_uid: Uid) -> schemas.Study:
    """One study's result."""
    with web.database.read() as tx:
        return schemas.Study.model_validate(find_study(tx, study_instance_uid))


@router.get("/studies/{study_instance_uid}/instances", responses=_NOT_FOUND)
def list_instances(web: WebDep, study_instance_uid: Uid) -> list[schemas.Instance]:
    """Every object of a study, with its state and reason."""
    with web.database.read() as tx:
        find_study(tx, study_instance_uid)
        rows = queries.find_instance_results(tx, study_instance_uid)
    return [schemas.Instance.model_validate(row) for row in rows]


@router.get("/studies/{study_instance_uid}/timeline", responses=_NOT_FOUND)
def get_timeline(web: WebDep, study_instance_uid: Uid) -> list[schemas.TimelineEvent]:
    """Everything that happened to a study, the first thing first."""
    with web.database.read() as tx:
        find_study(tx, study_instance_uid)
        events = queries.timeline(tx, study_instance_uid)
    return [schemas.TimelineEvent.model_validate(vars(event)) for event in events]


@router.get("/studies/{study_instance_uid}/deliveries", responses=_NOT_FOUND)
def list_deliveries(web: WebDep, study_instance_uid: Uid) -> list[schemas.Delivery]:
    """Where a study's objects went, or wait to go."""
    with web.database.read() as tx:
        find_study(tx, study_instance_uid)
        rows = queries.find_deliveries(tx, study_instance_uid)
    return [schemas.Delivery.model_validate(row) for row in rows]


@router.get("/studies/{study_instance_uid}/report", response_class=Response, responses=_DICOM)
def get_report(web: WebDep, study_instance_uid: Uid) -> Response:
    """The newest Structured Report, byte for byte as it is sent."""
    with web.database.read() as tx:
        report = stored.newest_report(tx, study_instance_uid)
    if report is None:
        raise HTTPException(404, "this study has no report")
    name = f'attachment; filename="{report.sop_instance_uid}.dcm"'
    return Response(
        report.payload, media_type="application/dicom", headers={"Content-Disposition": name}
    )


@router.get("/studies/{study_instance_uid}/feedback", responses=_NOT_FOUND)
def list_feedback(web: WebDep, study_instance_uid: Uid) -> list[schemas.Feedback]:
    """What readers said of a study."""
    with web.database.read() as tx:
        find_study(tx, study_instance_uid)
        rows = queries.find_feedback(tx, study_instance_uid)
    return [schemas.Feedback.model_validate(row) for row in rows]


@router.post("/studies/{study_instance_uid}/feedback", status_code=201, responses=_NOT_FOUND)
def give_feedback(
    web: WebDep, visitor: VisitorDep, study_instance_uid: Uid, opinion: schemas.Opinion
) -> schemas.Feedback:
    """Agree or disagree with a study's result."""
    author = visitor.name
    if visitor.is_bearer and opinion.author:
        author = clean_name(opinion.author) or author
    comment = printable(opinion.comment)
    with web.database.begin() as tx:
        if not record_feedback(
            tx, study_instance_uid, opinion.verdict, author=author, comment=comment
        ):
            raise HTTPException(404, "no such study")
        (newest, *_) = queries.find_feedback(tx, study_instance_uid)
    return schemas.Feedback.model_validate(newest)


@router.post("/studies/{study_instance_uid}/reprocess", status_code=202, responses=_NOT_FOUND)
def reprocess(web: WebDep, visitor: VisitorDep, study_instance_uid: Uid) -> schemas.Reprocessing:
    """Analyse a study's images again, behind live work."""
    require_operator(visitor)
    return schemas.Reprocessing(images=start_again(web, study_instance_uid))


def start_again(web: Web, study_instance_uid: str) -> int:
    """Put a study's images back to the start; returns how many. 404 if there is no such study."""
    with web.database.begin() as tx:
        find_study(tx, study_instance_uid)
        max_age_days = web.settings.max_study_age_days
        count = restarts.reprocess(
            tx, study_instance_uid, max_age_days=max_age_days, deliver_anyway=False
        )
    web.services.notify("prepare", "")
    return count


@router.get("/instances/{sop_instance_uid}", responses=_NOT_FOUND)
def get_instance(web: WebDep, sop_instance_uid: Uid) -> schemas.Instance:
    """One object's state, reason and result."""
    with web.database.read() as tx:
        row = queries.find_instance(tx, sop_instance_uid)
    if row is None:
        raise HTTPException(404, "no such image")
    return schemas.Instance.model_validate(row)


@router.get("/instances/{sop_instance_uid}/image", response_class=Response, responses=_PNG)
def get_image(web: WebDep, sop_instance_uid: Uid) -> Response:
    """The image as its header says it is to be shown, at most 1024 pixels wide or high."""
    with web.database.read() as tx:
        name = stored.spool_name_of_image(tx, sop_instance_uid)
    if name is None:
        raise HTTPException(404, "no such image")
    try:
        picture = web.pictures.windowed(web.services.spool.path(name))
    except DicomError as error:
        raise HTTPException(404, f"the image cannot be shown: {error}") from error
    except OSError as error:
        raise HTTPException(404, "the image's file is not on this machine") from error
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private"})


@router.get("/instances/{sop_instance_uid}/saliency", response_class=Response, responses=_PNG)
def get_saliency(web: WebDep, sop_instance_uid: Uid) -> Response:
    """Where the model looked: to be stretched over the image. 404 where that is not known."""
    with web.database.read() as tx:
        found = stored.saliency_of_image(tx, sop_instance_uid)
    if found is None:
        raise HTTPException(404, "no such image, or not known where the model looked")
    picture = overlay(as_map(found))
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private"})


@router.get("/failures")
def list_failures(
    web: WebDep,
    since: Annotated[AwareDatetime | None, Query(description="Default: a day ago.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[schemas.Failure]:
    """Images, reports and deliveries that were given up, the newest first."""
    with web.database.read() as tx:
        rows = statistics.find_failures(
            tx, since or datetime.now(UTC) - timedelta(days=1), limit=limit
        )
    return [schemas.Failure.model_validate(row) for row in rows]


@router.get("/status")
def get_status(web: WebDep) -> schemas.Status:
    """Queues, states, destinations, model: what `cxr-worker status --json` prints."""
    return schemas.Status.model_validate(assess(web.settings, web.database).as_dict())


def find_study(tx: Transaction, study_instance_uid: str) -> dict[str, Any]:
    """A study's row; 404 if there is none."""
    wanted = queries.ResultFilter(study_instance_uid=study_instance_uid)
    found = queries.find_study_results(tx, wanted)
    if not found:
        raise HTTPException(404, "no such study")
    return dict(found[0])


def printable(text: str | None) -> str | None:
    """Text as it is kept: line ends stay, other control characters do not."""
    if text is None:
        return None
    return "".join(c for c in text if c.isprintable() or c == "\n")
