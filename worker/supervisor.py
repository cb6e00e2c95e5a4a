"""Child processes that end with us, and start again when they die."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType

from worker import log

RESTART_AFTER_MIN_S = 0.5
RESTART_AFTER_MAX_S = 30.0
STEADY_AFTER_S = 60.0  # a child that ran this long starts over with the shortest wait
STOP_WITHIN_S = 20.0
EXIT_WRONG_USAGE = 2  # settings will be no better after a restart

_PR_SET_PDEATHSIG = 1
_log = log.get("supervisor")


def end_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """One child process, restarted with growing waits."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._wait_s = RESTART_AFTER_MIN_S
        self._restart_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches us alone, and we end the children in order.
        self._process = subprocess.Popen(
            self._argv,
            env={**os.environ, **self._env},
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - takes no lock
        )
        self._started_at = time.monotonic()
        self._restart_at = None

    def check(self) -> int | None:
        """Restart the child if its time has come; returns the exit status of one just ended."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self.start()
            return None
        if self._process is None or self._process.poll() is None:
            return None
        if now - self._started_at > STEADY_AFTER_S:
            self._wait_s = RESTART_AFTER_MIN_S
        self._restart_at = now + self._wait_s
        self._wait_s = min(self._wait_s * 2, RESTART_AFTER_MAX_S)
        return self._process.returncode

    def terminate(self) -> None:
        """Ask the child to end; `stop` waits for it."""
        self._restart_at = None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """Ask the child to end, and kill it when it takes too long."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not end within %s s: killed", self.name, within_s)
            self._process.kill()
            self._process.wait()


def watch(children: Sequence[Child], stop: threading.Event) -> int:
    """Keep children alive until `stop` is set; returns 2 early if one refuses its settings."""
    while not stop.wait(0.2):
        for child in children:
            status = child.check()
            if status == EXIT_WRONG_USAGE:
                return EXIT_WRONG_USAGE
            if status is not None:
                _log.warning("%s ended with status %s: starting it again", child.name, status)
    return 0


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            sys.exit(128 + signum)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
