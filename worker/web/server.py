"""The web process: page and API on one port, metrics on another."""

import socket

import uvicorn

from worker import home, log, metrics
from worker.errors import WorkerError
from worker.services import make_services
from worker.settings import Settings
from worker.web.app import make_app

DRAIN_S = 5
CONNECTIONS_MAX = 200

_log = log.get("web")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are then given a moment to end."""
    services = make_services(settings)
    listening = bind(settings.web_bind, settings.web_port, "CXR_WEB_PORT")
    listening.listen()  # who reads the published port below is not refused
    host, port = listening.getsockname()[:2]
    settings.home.mkdir(parents=True, exist_ok=True)  # where the web alone runs, nobody else does
    home.publish_port(settings.home, port, "web")
    metrics.serve(settings, services.database, services.bundle)
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(services),
            log_config=None,
            access_log=False,
            proxy_headers=False,  # `access` looks at them itself, and believes few
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
            limit_concurrency=CONNECTIONS_MAX,
        )
    )
    _log.info("web page on http://%s:%s", f"[{host}]" if ":" in host else host, port)
    try:
        server.run(sockets=[listening])
    finally:
        services.audit.close()
        services.database.dispose()


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; WorkerError says which setting to change when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise WorkerError(
            f"cannot serve the web page on {host}:{port}: {error.strerror}; set CXR_WEB_BIND to "
            f"an address of this machine and {setting} to a free port, or CXR_WEB=off"
        ) from error
    return listening
