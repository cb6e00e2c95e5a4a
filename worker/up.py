"""`cxr-worker up`: every role on this machine, with an embedded broker unless one is set."""

import importlib.util
import socket
import sys
import time
from pathlib import Path

from db import schema
from db.engine import Database
from worker import embedded, home, log
from worker.errors import WorkerError
from worker.settings import Settings
from worker.supervisor import Child, stop_all, stop_event, watch

BROKER_START_WITHIN_S = 10.0

_log = log.get("up")


def run(settings: Settings, *, dicom_concurrency: int) -> int:
    """Run until SIGTERM or Ctrl-C, then drain and stop; returns the exit status."""
    if importlib.util.find_spec("tensorflow") is None:
        raise WorkerError("TensorFlow is not installed: run pip install 'cxr-worker[cpu]'")
    with home.lock(settings.home, "up"):
        stop = stop_event()
        database = Database(settings.database)
        schema.upgrade(database)
        database.dispose()
        children = _children(settings, dicom_concurrency)
        try:
            for child in children:
                child.start()
                if child.name == "broker":
                    _wait_for_broker(embedded.socket_path(settings.home))
            return watch(children, stop)
        finally:
            _stop(children)


def _children(settings: Settings, dicom_concurrency: int) -> list[Child]:
    env = settings.environment()
    program = [sys.executable, "-m", "worker.cli"]
    children = [
        Child("listener", [*program, "listen"], env),
        Child(
            "dicom",
            [*program, "work", "--role", "dicom", "--concurrency", str(dicom_concurrency)],
            env,
        ),
        Child("inference", [*program, "work", "--role", "inference"], env),
    ]
    if settings.web:
        children.append(Child("web", [*program, "web"], env))
    if not settings.broker_url.get_secret_value():
        children.insert(0, Child("broker", embedded.command(settings.home), {}))
    return children


def _stop(children: list[Child]) -> None:
    """The listener first, the broker last: what is not finished by then stays due."""
    for names in (["listener", "web"], ["dicom", "inference"], ["broker"]):
        stop_all([child for child in children if child.name in names])


def _wait_for_broker(path: Path) -> None:
    deadline = time.monotonic() + BROKER_START_WITHIN_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise WorkerError(f"the embedded broker did not start: see {path.parent}")
