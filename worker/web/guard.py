"""What every answer carries and every request is held to: headers, host names, body sizes."""

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker import log
from worker.web.access import Access, Visitor

_log = log.get("web")
BODY_BYTES_MAX = 64 << 10
Answered = Callable[[Scope, Visitor | None, int], None]  # and the status
UPLOAD_BYTES_MAX = 96 << 20  # of one request, all its files together
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # None at all would make a browser send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, access: Access, upload_path: str, answered: Answered) -> None:
        self._app = app
        self._answered = answered
        self._access = access
        self._upload_path = upload_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        if not self._access.is_known_host(request):
            refusal = PlainTextResponse("this page is open to this machine alone", 403)
            await refusal(scope, receive, send_with_headers)
            return
        # A form is read before anybody is asked who sends it: strangers may send little.
        uploads = scope["path"] == self._upload_path and self._access.visitor(request)
        limit = UPLOAD_BYTES_MAX if uploads else BODY_BYTES_MAX
        try:
            await self._app(scope, _bounded(receive, limit), send_with_headers)
        except Exception as error:  # the server would log its text, which may quote a patient
            _log.error("%s %s failed: %s", request.method, scope["path"], log.where(error))
            if not status:
                broken = PlainTextResponse("this failed; the log says where", 500)
                await broken(scope, receive, send_with_headers)
        await run_in_threadpool(self._tell, scope, request, status)

    def _tell(self, scope: Scope, request: Request, status: int) -> None:
        try:
            self._answered(scope, self._access.visitor(request), status)
        except Exception as error:  # the answer is out already; the database may be down
            _log.error("request not audited: %s", log.where(error))


def _bounded(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def receive_bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, f"more than {limit >> 10} KiB")
        return message

    return receive_bounded
