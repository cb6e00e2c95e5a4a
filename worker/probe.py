"""Whether one role's processes on this machine live, and whether they can work: two questions.

That it lives tells of the process, not of what it depends on: with the broker or the database away
it must not be killed, for it goes on by itself when they are back. That it is ready tells of both,
and nobody is killed for it. `cxr-worker status` tells of the whole system.
"""

import http.client
import socket
from collections.abc import Callable

import sqlalchemy.exc
from kombu.exceptions import OperationalError
from redis import RedisError

from db import schema
from db.engine import Database
from db.errors import SchemaMismatch
from worker import home
from worker.celery_app import make_app
from worker.connections import PROBE
from worker.errors import WorkerError
from worker.settings import Settings

TIMEOUT_S = 10.0  # a worker answers between two tasks
_BROKER_DOWN = (RedisError, OperationalError, OSError)


class Unhealthy(WorkerError):
    """What was asked does not answer as it should, or cannot work now."""


def listener(settings: Settings) -> str:
    """Connect and abort, in TLS hang up: it must close the connection, whoever may associate."""
    role = "listener" if settings.listener_plain else "listener-tls"
    host, port = _where(settings.bind), home.published_port(settings.home, role)
    if port is None:
        raise Unhealthy(f"no listener has started in {settings.home}")
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as client:
            client.sendall(PROBE)
            while client.recv(1024):
                pass
    except ConnectionResetError:
        pass  # closed all the same
    except OSError as error:
        raise Unhealthy(f"the listener does not answer on port {port}: {error}") from error
    return f"the listener answers on port {port}"


def listener_ready(settings: Settings) -> str:
    """It answers, and a store would not be refused: there is a database, and room on the disk."""
    said = listener(settings)
    _require_database(settings)
    free_bytes = home.free_bytes(settings.home)
    if free_bytes is None:
        raise Unhealthy(f"there is no spool in {settings.home}")
    if free_bytes <= settings.spool_reserve_mb << 20:
        raise Unhealthy(
            f"the disk has {free_bytes >> 20} MB left, stores are refused below "
            f"{settings.spool_reserve_mb} MB"
        )
    return said


def web(settings: Settings) -> str:
    """GET /healthz, which asks nothing of the database."""
    status, port = _get(settings, "/healthz")
    # 503: too many ask at once, and it says so.
    if status not in (http.HTTPStatus.OK, http.HTTPStatus.SERVICE_UNAVAILABLE):
        raise Unhealthy(f"the web page answers {status}")
    return f"the web page answers {status} on port {port}"


def web_ready(settings: Settings) -> str:
    """GET /readyz, which does."""
    status, port = _get(settings, "/readyz")
    if status != http.HTTPStatus.OK:
        raise Unhealthy(
            f"the web page answers {status}: its database is away, or of another schema"
        )
    return f"the web page is ready on port {port}"


def _get(settings: Settings, path: str) -> tuple[int, int]:
    """The status of an answer, and the port that gave it."""
    host, port = _where(settings.web_bind), home.published_port(settings.home, "web")
    if port is None:
        raise Unhealthy(f"no web page has started in {settings.home}")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status, port
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"the web page does not answer on port {port}: {error}") from error
    finally:
        connection.close()


def worker(settings: Settings, role: str) -> str:
    """Ask this machine's workers of one role through the broker whether they take messages."""
    try:
        return _ask_worker(settings, role)
    except _BROKER_DOWN as error:
        return f"the broker is not reachable ({type(error).__name__}): nothing to tell"


def worker_ready(settings: Settings, role: str) -> str:
    """It takes messages, so that a model is loaded and warm; there are a broker and a database."""
    try:
        said = _ask_worker(settings, role)
    except _BROKER_DOWN as error:
        raise Unhealthy(f"the broker is not reachable ({type(error).__name__})") from error
    _require_database(settings)
    return said


def _ask_worker(settings: Settings, role: str) -> str:
    app = make_app(settings.broker, publish_only=True)
    mine = f"{role}-*@{socket.gethostname()}"
    if not app.control.ping(pattern=mine, matcher="glob", limit=1, timeout=TIMEOUT_S):
        raise Unhealthy(f"no {role} worker of this machine has answered for {TIMEOUT_S:.0f} s")
    return f"the {role} worker answers"


def _require_database(settings: Settings) -> None:
    """By a connection of our own: what this machine reaches, its processes reach."""
    try:
        database = Database(settings.database)
        try:
            schema.require_current(database)
        finally:
            database.dispose()
    except SchemaMismatch as error:
        raise Unhealthy(str(error)) from error
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise Unhealthy(f"the database is not reachable ({type(error).__name__})") from error


def _where(bind: str) -> str:
    """How a process that binds to this address is reached from its own machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104


LIVE: dict[str, Callable[[Settings], str]] = {
    "listener": listener,
    "dicom": lambda settings: worker(settings, "dicom"),
    "inference": lambda settings: worker(settings, "inference"),
    "web": web,
}
READY: dict[str, Callable[[Settings], str]] = {
    "listener": listener_ready,
    "dicom": lambda settings: worker_ready(settings, "dicom"),
    "inference": lambda settings: worker_ready(settings, "inference"),
    "web": web_ready,
}
