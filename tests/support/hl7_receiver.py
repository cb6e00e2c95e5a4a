"""`hl7_server` from a test's side."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.peers import free_port
from tests.support.system import wait_for


class Hl7Receiver:
    """The process, from a test's side: started, told how to answer, stopped, started again."""

    def __init__(self, folder: Path, *tls: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.answer("AA")

    def answer(self, how: str) -> None:
        (self._folder / "answer").write_text(how)

    @property
    def received(self) -> list[str]:
        path = self._folder / "received"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def start(self) -> None:
        argv = [
            sys.executable,
            "-m",
            "tests.support.hl7_server",
            str(self.port),
            self._folder,
            *self._tls,
        ]
        self._process = subprocess.Popen([str(part) for part in argv])
        wait_for("the HL7 receiver", self._is_up, 30)

    def _is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def hl7_receiver(folder: Path, *tls: Path) -> Iterator[Hl7Receiver]:
    receiver = Hl7Receiver(folder, *tls)
    try:
        receiver.start()
        yield receiver
    finally:
        receiver.stop()
