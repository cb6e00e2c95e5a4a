"""Pages out of templates: who sees them, their session, and the forms that they may send."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from worker.version import VERSION
from worker.web.access import Visitor, new_session, require_operator
from worker.web.context import Web, web_of

NOTHING = "\N{EN DASH}"
_templates = Environment(
    loader=PackageLoader("worker.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class SignInNeeded(Exception):
    """A stranger asked for a page."""


def page_visitor(request: Request) -> Visitor:
    """The pages' dependency: strangers are sent to sign in."""
    web = web_of(request)
    visitor = web.access.visitor(request)
    if visitor is not None:
        return visitor
    if web.access.has_sign_in:
        raise SignInNeeded
    raise HTTPException(401, "the proxy in front of this page named no user")


PageVisitor = Annotated[Visitor, Depends(page_visitor)]


def form_visitor(
    request: Request, visitor: PageVisitor, csrf_token: Annotated[str, Form()] = ""
) -> Visitor:
    """The forms' dependency: whoever sends one got it from a page of ours."""
    check_form(request, csrf_token)
    return visitor


FormVisitor = Annotated[Visitor, Depends(form_visitor)]


def form_operator(visitor: FormVisitor) -> Visitor:
    """The dependency of forms that change something for everybody."""
    require_operator(visitor)
    return visitor


FormOperator = Annotated[Visitor, Depends(form_operator)]


def check_form(request: Request, csrf_token: str) -> None:
    """Raise 403 unless the form comes from a page that this session was given."""
    access = web_of(request).access
    session = access.session(request)
    if not (access.is_same_origin(request) and access.is_csrf_token(session, csrf_token)):
        raise HTTPException(403, "this form has expired: go back, reload the page, send it again")


def page(
    request: Request,
    template: str,
    visitor: Visitor | None,
    *,
    status: int = 200,
    **context: Any,
) -> Response:
    """A whole page. It starts a session where there is none, for its forms."""
    web = web_of(request)
    held = web.access.session(request)
    session = held or new_session()
    common = {
        "request": request,
        "settings": web.settings,
        "model": web.bundle,
        "visitor": visitor,
        "can_sign_out": bool(held and held.name),
        "csrf_token": web.access.csrf_token(session),
        "version": VERSION,
    }
    response = HTMLResponse(_render(web, template, common | context), status)
    if held is None:
        web.access.start_session(request, response, session)
    return response


def fragment(request: Request, template: str, **context: Any) -> Response:
    """A part of a page, for its script to put in place."""
    web = web_of(request)
    return HTMLResponse(_render(web, template, {"settings": web.settings} | context))


def error_page(
    request: Request, status: int, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    answer = page(request, "error.html", None, status=status, text=text, status_code=status)
    answer.headers.update(headers or {})
    return answer


def _render(web: Web, template: str, context: Mapping[str, Any]) -> str:
    zone = ZoneInfo(web.settings.timezone)

    def moment(at: datetime | None) -> str:
        return "" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"

    return _templates.get_template(template).render(
        moment=moment, seconds=seconds, percent=percent, now=datetime.now(UTC), **context
    )


def seconds(value: float | None) -> str:
    """A duration as a person reads it: "0.4 s", "12 min"."""
    if value is None:
        return NOTHING
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if value < limit:
            digits = 1 if value / size < 10 else 0  # noqa: PLR2004
            return f"{value / size:.{digits}f} {unit}"
    return f"{value / 86400:.0f} d"


def percent(value: float | None) -> str:
    """A share as a person reads it; small ones keep two digits that say something."""
    if value is None:
        return NOTHING
    return f"{value:.1%}" if value >= 0.01 else f"{value:.2%}"  # noqa: PLR2004
