"""`cxr-worker listen` alone, as a real command over SQLite, for tests of what peers do to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.tables import instances
from dicom_io import scu
from dicom_io.destination import Destination, Tls
from tests.support.system import wait_for
from worker import home


class Listener:
    """A running listener in a home of its own."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.home = folder / "home"
        self.database = Database(f"sqlite:///{self.home / 'cxr.db'}")
        schema.upgrade(self.database)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        values: dict[str, object] = {
            "HOME_DIR": self.home,
            "DICOM_PORT": 0,
            "SPOOL_RESERVE_MB": 10,
            "LISTENER_PROCESSES": 1,
        }
        env = {f"CXR_{name}": str(value) for name, value in (values | settings).items()}
        self._log = self.home / "listen.log"
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", "listen"], env=clean | env, stderr=file
            )
        self._tls_only = env.get("CXR_LISTENER_PLAIN") == "off"
        wait_for("the listener", self._is_up)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        return (
            home.published_port(self.home, "listener-tls" if self._tls_only else "listener")
            is not None
        )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> int:
        port = home.published_port(self.home)
        assert port is not None
        return port

    @property
    def tls_port(self) -> int:
        port = wait_for("the TLS port", lambda: home.published_port(self.home, "listener-tls"))
        assert port is not None
        return port

    def address(self, tls: Tls | None = None) -> Destination:
        port = self.port if tls is None else self.tls_port
        return Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=port, tls=tls)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def send(
        self, paths: list[Path], tls: Tls | None = None, aet: str = "SENDER"
    ) -> list[scu.FileResult]:
        return list(scu.send_files(paths, self.address(tls), calling_ae_title=aet))

    def rows(self) -> int:
        with self.database.read() as tx:
            count = sa.select(sa.func.count()).select_from(instances)
            return int(tx.conn.execute(count).scalar_one())

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.database.dispose()


@contextmanager
def listening(folder: Path, **settings: object) -> Iterator[Listener]:
    running = Listener(folder, **settings)
    try:
        yield running
    finally:
        running.end()
