"""Storage SCPs, ours and others', each a fresh process in a folder of its own."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from db import queries, schema
from db.engine import Database
from tests.bench.harness import Failed, program
from tests.support.peers import free_port
from tests.support.system import wait_for
from worker import embedded, home
from worker.supervisor import end_with_parent

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
# Without it DCMTK, and Orthanc which is built on it, lose 40 ms per file to Nagle's algorithm.
DCMTK_ENV = {"TCP_NODELAY": "1"}
START_WITHIN_S = 300.0  # TensorFlow on a busy machine


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running storage SCP, and how many objects it says it has."""

    port: int
    ae_title: str
    pid: int
    count: Callable[[], int]


@contextmanager
def listener(folder: Path, **settings: object) -> Iterator[Server]:
    """`cxr-worker listen` with its broker and SQLite; nobody takes the work that it queues."""
    database = Database(f"sqlite:///{folder / 'cxr.db'}")
    schema.upgrade(database)
    env = {"CXR_HOME_DIR": str(folder), "CXR_DICOM_PORT": "0", "PYTHONPATH": str(ROOT)}
    env |= {f"CXR_{name}": str(value) for name, value in settings.items()}
    listen = [sys.executable, "-m", "worker.cli", "listen"]
    with _process(embedded.command(folder), folder), _process(listen, folder, env) as process:
        port = _wait("cxr-worker listen", process, folder, lambda: home.published_port(folder))
        yield Server(
            port=port,
            ae_title="CXR_WORKER",
            pid=process.pid,
            count=partial(_count_rows, database),
        )
    database.dispose()


@contextmanager
def role(folder: Path, name: str, count: int = 1) -> Iterator[tuple[str, list[int]]]:
    """`cxr-worker work --role …`, so many of them, on SQLite with a broker of their own.

    Gives the broker's URL and the workers' process ids.
    """
    env = {"CXR_HOME_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    work = [sys.executable, "-m", "worker.cli", "work", "--role", name]
    log = folder / "server.log"
    with _process(embedded.command(folder), folder), ExitStack() as stack:
        workers = [stack.enter_context(_process(work, folder, env)) for _ in range(count)]
        ready = f"{name} worker ready"
        _wait(name, workers[0], folder, lambda: log.read_text().count(ready) >= count or None)
        yield embedded.broker_url(folder), [worker.pid for worker in workers]


def _count_rows(database: Database) -> int:
    with database.read() as tx:
        query = sa.select(sa.func.count()).select_from(queries.instance_results)
        return int(tx.conn.execute(query).scalar_one())


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Orthanc with SQLite and its default settings but for ports and folder."""
    argv = [program("Orthanc", "orthanc"), "orthanc.json"]
    port, http_port = free_port(), free_port()
    settings = {"StorageDirectory": "storage", "DicomPort": port, "HttpPort": http_port}
    (folder / "orthanc.json").write_text(json.dumps(settings))

    def count() -> int | None:
        try:
            url = f"http://127.0.0.1:{http_port}/statistics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return int(json.load(answer)["CountInstances"])
        except (urllib.error.URLError, ConnectionError):
            return None

    with _process(argv, folder, DCMTK_ENV) as process:
        _wait("Orthanc", process, folder, lambda: count() is not None)
        yield Server(port=port, ae_title="ORTHANC", pid=process.pid, count=lambda: count() or 0)


@contextmanager
def storescp(folder: Path) -> Iterator[Server]:
    """DCMTK's storescp, which writes files as they come and syncs nothing."""
    port, received = free_port(), folder / "received"
    received.mkdir()
    argv = [program("storescp", "dcmtk"), "+B", "--fork", "-od", str(received), str(port)]
    with _process(argv, folder, DCMTK_ENV) as process:
        _wait("storescp", process, folder, lambda: _is_listening(port))
        yield Server(
            port=port,
            ae_title="ANY-SCP",
            pid=process.pid,
            count=lambda: sum(1 for _ in received.iterdir()),
        )


@contextmanager
def naive(folder: Path) -> Iterator[Server]:
    """pynetdicom without any tuning; syncs nothing to disk and has no database."""
    port, received = free_port(), folder / "received"
    received.mkdir()
    argv = [sys.executable, "-m", "tests.bench.naive", str(port), str(received)]
    with _process(argv, folder, {"PYTHONPATH": str(ROOT)}) as process:
        _wait("pynetdicom", process, folder, lambda: _is_listening(port))
        yield Server(
            port=port,
            ae_title="NAIVE",
            pid=process.pid,
            count=lambda: sum(1 for _ in received.iterdir()),
        )


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _process(
    argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with this program however that ends."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=clean | dict(env or {}),
            stdout=log,
            stderr=log,
            preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - takes no lock
        )
    try:
        yield process
    finally:
        process.kill()  # nobody looks at its folder any more, and Orthanc takes 3 s to end
        process.wait()


def _wait(
    name: str, process: subprocess.Popen[bytes], folder: Path, probe: Callable[[], T | None]
) -> T:
    """Wait until the server answers. Raises Failed with the end of its log."""

    def alive() -> T | None:
        assert process.poll() is None
        return probe()

    try:
        return wait_for(name, alive, START_WITHIN_S)
    except AssertionError:
        end = (folder / "server.log").read_text(errors="replace")[-500:]
        raise Failed(f"{name} did not start: {end}") from None
