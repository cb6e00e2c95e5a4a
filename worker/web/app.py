"""The web application: pages, API, static files, behind one guard. TensorFlow is never loaded."""

from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from worker import log
from worker.services import Services
from worker.version import VERSION
from worker.web import (
    api,
    api_page,
    audited,
    login,
    oidc,
    pages,
    probed,
    study_page,
    system_page,
    try_page,
)
from worker.web.access import Access
from worker.web.context import Web
from worker.web.guard import Guard
from worker.web.render import SignInNeeded, error_page

_log = log.get("web")


def make_app(services: Services) -> FastAPI:
    """The application of one process, over services that it owns."""
    access = Access(services.settings)
    provider = oidc.Provider(services.settings) if access.has_provider else None
    app = FastAPI(
        title="cxr-worker",
        version=VERSION,
        description="Results of chest X-rays. Not for diagnostic use.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
    )
    app.state.web = web = Web(services=services, access=access, provider=provider)
    app.include_router(api.router)
    for module in (pages, study_page, system_page, try_page, login, api_page, probed):
        app.include_router(module.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_exception_handler(SignInNeeded, _sign_in)
    app.add_exception_handler(oidc.SignInRefused, _sign_in_refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(sqlalchemy.exc.OperationalError, _database_down)
    app.add_exception_handler(sqlalchemy.exc.TimeoutError, _database_down)
    if provider is not None:
        secure = services.settings.web_url.startswith("https://")
        app.add_middleware(oidc.remembering, key=access.key_for("oidc"), secure=secure)
    app.add_middleware(
        Guard, access=access, upload_path=try_page.PATH, answered=partial(audited.report, web)
    )
    return app


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _answer(request: Request, status: int, text: str, headers: Any = None) -> Response:
    if _wants_json(request):
        return JSONResponse({"detail": text}, status, headers)
    return error_page(request, status, text, headers)


async def _sign_in(_request: Request, _error: Exception) -> Response:
    return RedirectResponse("/login", 303)


async def _sign_in_refused(request: Request, error: Exception) -> Response:
    return error_page(request, 403, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, str(error.detail), error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Where and what, but not the value: it may name a patient.
    problems = [
        {"loc": list(it["loc"]), "msg": it["msg"], "type": it["type"]} for it in error.errors()
    ]
    if _wants_json(request):
        return JSONResponse({"detail": problems}, 422)
    return _answer(request, 422, "; ".join(str(it["msg"]) for it in problems))


async def _database_down(request: Request, error: Exception) -> Response:
    _log.error("database down: %s", type(error).__name__)
    return _answer(request, 503, "the database cannot be reached")
