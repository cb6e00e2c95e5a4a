"""The worklist: what to read first, kept current while it is open."""

from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from db import search
from db.engine import Database
from db.queries import ResultFilter
from db.search import BadCursor, Sort
from db.tables import StudyState, Verdict
from model.bands import Band
from worker.web import render
from worker.web.context import Web, WebDep
from worker.web.presentation import shown
from worker.web.render import FormVisitor, PageVisitor
from worker.web.schemas import Identifier, Origin

ROWS = 50
router = APIRouter()


class View(BaseModel):
    """What of the worklist is shown; all of it may stand in a URL, and none names a patient."""

    model_config = ConfigDict(extra="ignore")

    days: Literal["1", "7", "30", "all"] = "7"
    band: list[Band] = []
    state: StudyState | Literal[""] = ""
    origin: Origin | Literal[""] = ""
    feedback: Verdict | Literal[""] = ""
    sort: Sort = Sort.URGENCY
    cursor: str = ""

    def wanted(self, database: Database) -> ResultFilter:
        with database.read() as tx:
            since = None if self.days == "all" else tx.now - timedelta(days=int(self.days))
        return ResultFilter(
            since=since,
            bands=tuple(self.band),
            states=(self.state,) if self.state else (),
            origin=self.origin or None,
            verdict=self.feedback or None,
        )

    def query(self, **changes: Any) -> str:
        values = self.model_dump(exclude_defaults=True, mode="json") | changes
        return urlencode(values, doseq=True)


@router.get("/")
def worklist(
    request: Request, web: WebDep, visitor: PageVisitor, view: Annotated[View, Query()]
) -> Response:
    return render.page(
        request, "worklist.html", visitor, **_listed(web, view), bands=list(Band), sorts=list(Sort)
    )


@router.get("/worklist")
def worklist_part(
    request: Request, web: WebDep, _visitor: PageVisitor, view: Annotated[View, Query()]
) -> Response:
    """The table alone, which the page asks for every few seconds."""
    return render.fragment(request, "worklist_table.html", **_listed(web, view))


@router.post("/find")
def find(
    request: Request,
    web: WebDep,
    visitor: FormVisitor,
    text: Annotated[Identifier, Form()],
) -> Response:
    """Studies by accession number or patient ID: by POST, for neither belongs into a URL."""
    rows: list[Any] = []
    with web.database.read() as tx:
        for wanted in (ResultFilter(accession_number=text), ResultFilter(patient_id=text)):
            rows += search.page(tx, wanted, Sort.RECEIVED, size=ROWS).rows
    return render.page(
        request, "found.html", visitor, rows=[_row(web, row) for row in rows], text=text
    )


def _listed(web: Web, view: View) -> dict[str, Any]:
    wanted = view.wanted(web.database)
    try:
        with web.database.read() as tx:
            page = search.page(
                tx,
                wanted,
                view.sort,
                size=ROWS,
                cursor=view.cursor or None,
                withhold=web.withholds,
            )
    except BadCursor as error:
        raise HTTPException(400, str(error)) from error
    return {
        "view": view,
        "rows": [_row(web, row) for row in page.rows],
        "next_query": view.query(cursor=page.next_cursor) if page.next_cursor else None,
    }


def _row(web: Web, row: Any) -> dict[str, Any]:
    return {"study": row, "shown": shown(row, withhold=web.withholds)}
