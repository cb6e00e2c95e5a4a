"""The real listener, killed by itself at one point of its write path, again and again.

    python -m tests.chaos.crash_listener        (settings from the environment, as `listen`)

Reads lines `POINT NUMBER` and answers each with `died STATUS`: a listener in a process of its own,
forked so that nothing is imported anew, that ends by SIGKILL at that point of its NUMBER-th store.
The point `never` runs one that lives until this program's next line.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from db.engine import Database, Transaction
from worker import listener, log, spool
from worker.receive import Origin, Receiver
from worker.settings import Settings
from worker.supervisor import end_with_parent, stop_event

POINTS = (
    "data set in the temp file",
    "temp file synced",
    "renamed",
    "folder synced",
    "row written, not committed",
    "committed",
    "before the answer",
)
NEVER = "never"


class _Trap:
    """Ends the process at the `point` of the store that is the `number`-th here."""

    def __init__(self, point: str, number: int) -> None:
        self._point = point
        self._number = number
        self._stores = 0
        self._storing = threading.local()

    def spring(self, point: str) -> None:
        if point == self._point and getattr(self._storing, "number", 0) == self._number:
            os.kill(os.getpid(), signal.SIGKILL)

    def receive(self, plain: Callable[..., int]) -> Callable[..., int]:
        def trapped(receiver: Receiver, temp_file: Path, origin: Origin) -> int:
            self._stores += 1
            self._storing.number = self._stores
            self.spring("data set in the temp file")
            status = plain(receiver, temp_file, origin)
            self.spring("before the answer")
            return status

        return trapped

    def after(self, point: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*arguments: Any, **options: Any) -> Any:
            found = plain(*arguments, **options)
            self.spring(point)
            return found

        return trapped

    def begin(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def trapped(database: Database) -> Iterator[Transaction]:
            with plain(database) as tx:
                yield tx
                self.spring("row written, not committed")
            self.spring("committed")

        return trapped

    def set(self) -> None:
        # mypy takes none of these; a test may.
        classes: Any = (Receiver, Database, Path, spool)
        receiver, database, path, module = classes
        receiver.receive = self.receive(receiver.receive)
        database.begin = self.begin(database.begin)
        path.rename = self.after("renamed", path.rename)
        plain_sync = module._sync_file
        module._sync_folder = self.after("folder synced", plain_sync)
        module._sync_file = self.after("temp file synced", plain_sync)


def _run(settings: Settings, point: str, number: int, parent_pid: int) -> None:
    end_with_parent(parent_pid)
    _Trap(point, number).set()
    listener.run(settings, stop_event())


def main() -> None:
    settings = Settings.from_env()
    log.configure(settings.log_level, settings.log_format)
    alive = 0
    for line in sys.stdin:
        if alive:
            os.kill(alive, signal.SIGTERM)
            os.waitpid(alive, 0)
            alive = 0
        point, number = line.strip().rsplit(" ", 1)
        parent_pid = os.getpid()
        if (pid := os.fork()) == 0:
            try:
                _run(settings, point, int(number), parent_pid)
            finally:
                os._exit(0)
        if point == NEVER:
            alive = pid
        else:
            _, status = os.waitpid(pid, 0)
            print("died", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
