"""Several listener processes on one port, as a real command: one killed, all drained."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from db.tables import instances
from dicom_io import scu
from dicom_io.destination import Destination
from tests.support import dicom
from tests.support.system import wait_for
from worker import home

PROCESSES = 2


class Listener:
    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.database = Database(f"sqlite:///{self.home / 'cxr.db'}")
        schema.upgrade(self.database)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        env = {"CXR_HOME_DIR": str(self.home), "CXR_DICOM_PORT": "0", "CXR_SPOOL_RESERVE_MB": "10"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "listen"],
            env=clean | env | {"CXR_LISTENER_PROCESSES": str(PROCESSES)},
        )
        self.port = wait_for("the listener", lambda: home.published_port(self.home))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def send(self, paths: list[Path]) -> list[scu.FileResult]:
        to = Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=self.port)
        return list(scu.send_files(paths, to, calling_ae_title="SENDER"))

    def rows(self) -> int:
        with self.database.read() as tx:
            count = sa.select(sa.func.count()).select_from(instances)
            return int(tx.conn.execute(count).scalar_one())


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    running = Listener(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()
    running.database.dispose()


def test_processes_share_a_port_and_a_killed_one_starts_again(
    listener: Listener, tmp_path: Path
) -> None:
    children = wait_for(
        "its children", lambda: listener.children()[PROCESSES - 1 :] and listener.children()
    )
    paths = [dicom.write(dicom.chest(pixels=dicom.chest_pixels(64)), tmp_path) for _ in range(12)]
    with ThreadPoolExecutor(6) as senders:
        results = list(senders.map(lambda path: listener.send([path])[0].status, paths[:10]))
    assert results == [0] * 10
    children[0].send_signal(signal.SIGKILL)
    wait_for("another child", lambda: {*listener.children()} - {*children}, 15)
    assert [result.status for result in listener.send(paths[10:])] == [0, 0]
    assert listener.rows() == len(paths)

    listener.process.terminate()
    assert listener.process.wait(30) == 0
    assert not any(child.is_running() for child in children)
