"""Signing in with the token or a provider, for people; machines send the token each time."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from worker.audit_message import signed_in
from worker.web import oidc, render
from worker.web.access import COOKIE, NAME_LENGTH_MAX, clean_name, new_session
from worker.web.audited import person
from worker.web.context import Web, WebDep

FAILURE_TAKES_S = 0.5
router = APIRouter()


@router.get("/login")
def sign_in_form(request: Request, web: WebDep) -> Response:
    if not web.access.has_sign_in:
        return RedirectResponse("/", 303)
    return render.page(request, "login.html", None, failed=False, name="", access=web.access)


@router.post("/login")
def sign_in(
    request: Request,
    web: WebDep,
    name: Annotated[str, Form(max_length=NAME_LENGTH_MAX)],
    token: Annotated[str, Form(max_length=1024)],
    csrf_token: Annotated[str, Form()] = "",
) -> Response:
    render.check_form(request, csrf_token)
    name = clean_name(name)
    failed = not name or not web.access.is_token(token)
    audit = web.services.audit
    who = person(request, name or "nobody")
    once = ("sign-in", who.address) if failed else None  # guessing must not fill the trail
    audit.report(signed_in(audit.ae_title, who, failed=failed), once=once)
    if failed:
        time.sleep(FAILURE_TAKES_S)  # guessing takes time
        return render.page(
            request, "login.html", None, status=403, failed=True, name=name, access=web.access
        )
    response = RedirectResponse("/", 303)
    web.access.start_session(request, response, new_session(name))
    return response


@router.get(oidc.START)
async def go_to_provider(request: Request, web: WebDep) -> Response:
    return await _provider(web).redirect(request)


@router.get(oidc.CALLBACK)
async def come_back(request: Request, web: WebDep) -> Response:
    audit = web.services.audit
    try:
        someone = await _provider(web).come_back(request)
    except oidc.SignInRefused:
        nobody = person(request, "nobody")
        message = signed_in(audit.ae_title, nobody, failed=True)
        audit.report(message, once=("sign-in", nobody.address))
        raise
    audit.report(signed_in(audit.ae_title, person(request, someone.name)))
    response = RedirectResponse("/", 303)
    session = new_session(someone.name, may_operate=someone.may_operate)
    web.access.start_session(request, response, session)
    return response


def _provider(web: Web) -> oidc.Provider:
    if web.provider is None:
        raise HTTPException(404, "no such page")
    return web.provider


@router.post("/logout")
def sign_out(request: Request, web: WebDep, csrf_token: Annotated[str, Form()] = "") -> Response:
    render.check_form(request, csrf_token)
    session, audit = web.access.session(request), web.services.audit
    if session is not None and session.name:
        who = person(request, session.name)
        audit.report(signed_in(audit.ae_title, who, leaves=True))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/favicon.ico")
def no_icon() -> Response:
    raise HTTPException(404, "no such page")
