"""Whether one role's processes on this machine do their work: what an orchestrator asks.

A probe tells of the process, not of what it depends on: with the broker or the database away it
must not be killed, for it goes on by itself when they are back. `cxr-worker status` tells of all.
"""

import http.client
import socket
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis import RedisError

from worker import home
from worker.celery_app import make_app
from worker.errors import WorkerError
from worker.settings import Settings

TIMEOUT_S = 10.0  # a worker answers between two tasks
_A_ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])  # PS3.8 9.3.8


class Unhealthy(WorkerError):
    """What was asked does not answer as it should."""


def listener(settings: Settings) -> str:
    """Connect and abort, in TLS hang up: it must close the connection, whoever may associate."""
    role = "listener" if settings.listener_plain else "listener-tls"
    host, port = _where(settings.bind), home.published_port(settings.home, role)
    if port is None:
        raise Unhealthy(f"no listener has started in {settings.home}")
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as client:
            if settings.listener_plain:
                client.sendall(_A_ABORT)
            else:
                client.shutdown(socket.SHUT_WR)
            while client.recv(1024):
                pass
    except ConnectionResetError:
        pass  # closed all the same
    except OSError as error:
        raise Unhealthy(f"the listener does not answer on port {port}: {error}") from error
    return f"the listener answers on port {port}"


def web(settings: Settings) -> str:
    """GET /health; that the database is away is no fault of the page's."""
    host, port = _where(settings.web_bind), home.published_port(settings.home, "web")
    if port is None:
        raise Unhealthy(f"no web page has started in {settings.home}")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"the web page does not answer on port {port}: {error}") from error
    finally:
        connection.close()
    if status not in (http.HTTPStatus.OK, http.HTTPStatus.SERVICE_UNAVAILABLE):
        raise Unhealthy(f"the web page answers {status}")
    return f"the web page answers {status} on port {port}"


def worker(settings: Settings, role: str) -> str:
    """Ask this machine's workers of one role through the broker whether they take messages."""
    app = make_app(settings.broker, publish_only=True)
    mine = f"{role}-*@{socket.gethostname()}"
    try:
        answers = app.control.ping(pattern=mine, matcher="glob", limit=1, timeout=TIMEOUT_S)
    except (RedisError, OperationalError, OSError) as error:
        return f"the broker is not reachable ({type(error).__name__}): nothing to tell"
    if not answers:
        raise Unhealthy(f"no {role} worker of this machine has answered for {TIMEOUT_S:.0f} s")
    return f"the {role} worker answers"


def _where(bind: str) -> str:
    """How a process that binds to this address is reached from its own machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104


ROLES: dict[str, Callable[[Settings], str]] = {
    "listener": listener,
    "dicom": lambda settings: worker(settings, "dicom"),
    "inference": lambda settings: worker(settings, "inference"),
    "web": web,
}
