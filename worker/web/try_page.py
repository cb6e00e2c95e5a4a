"""Trying the model without a PACS: files dropped on a page."""

import secrets
import shutil
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import Response

from worker.web import render
from worker.web.context import Web, WebDep
from worker.web.guard import UPLOAD_BYTES_MAX
from worker.web.render import FormOperator, PageVisitor
from worker.web.uploads import Outcome, Upload

PATH = "/try"
FILES_MAX = 20
AGE_YEARS_MAX = 130
router = APIRouter(prefix=PATH)


@router.get("")
def try_page(request: Request, web: WebDep, visitor: PageVisitor) -> Response:
    return _page(request, web, visitor, [])


@router.post("")
def upload(
    request: Request,
    web: WebDep,
    visitor: FormOperator,
    files: Annotated[list[UploadFile], File()],
    age_years: Annotated[str, Form(max_length=3, pattern=r"^\d*$")] = "",
) -> Response:
    if len(files) > FILES_MAX:
        raise HTTPException(422, f"at most {FILES_MAX} files at once")
    if age_years and int(age_years) > AGE_YEARS_MAX:
        raise HTTPException(422, f"an age is at most {AGE_YEARS_MAX} years")
    receiver = web.receiver()
    if receiver is None:
        raise HTTPException(503, "this machine has no spool: upload where the listener runs")
    spool = web.services.spool
    taken = Upload(
        receiver=receiver,
        temp_folder=spool.temp,
        age_years=int(age_years) if age_years else None,
    )
    outcomes = [_take(taken, spool.temp, file) for file in files if file.filename]
    return _page(request, web, visitor, outcomes)


def _take(upload: Upload, folder: Path, file: UploadFile) -> Outcome:
    copy = folder / f"upload-{secrets.token_hex(8)}"
    try:
        with copy.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return upload.take(copy, file.filename or "")
    finally:
        copy.unlink(missing_ok=True)


def _page(request: Request, web: Web, visitor: PageVisitor, outcomes: list[Outcome]) -> Response:
    return render.page(
        request,
        "try.html",
        visitor,
        outcomes=outcomes,
        use=web.bundle.intended_use,
        megabytes_max=UPLOAD_BYTES_MAX >> 20,
        files_max=FILES_MAX,
    )
