"""Child processes that end with us, and start again when they die."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Protocol

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


class _Process(Protocol):
    """What a supervisor needs of a process; subprocess.Popen has it."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class _Supervised:
    """A child process, restarted with growing waits; a subclass says how it is launched."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: _Process | None = None
        self._started_at = 0.0
        self._wait_s = RESTART_AFTER_MIN_S
        self._restart_at: float | None = None
        self._is_asked = False

    def _launch(self) -> _Process:
        raise NotImplementedError

    def start(self) -> None:
        self._process = self._launch()
        self._started_at = time.monotonic()
        self._restart_at = None
        self._is_asked = False

    def check(self) -> int | None:
        """Restart the child if its time has come; returns the exit status of one just ended."""
        now = time.monotonic()
        if self._restart_at is not None:
            if now >= self._restart_at:
                self.start()
            return None
        if self._process is None or (status := self._process.poll()) is None:
            return None
        if now - self._started_at > STEADY_AFTER_S:
            self._wait_s = RESTART_AFTER_MIN_S
        self._restart_at = now + self._wait_s
        self._wait_s = min(self._wait_s * 2, RESTART_AFTER_MAX_S)
        return status

    def terminate(self) -> None:
        """Ask the child to end, once: a second signal would end it at once."""
        self._restart_at = None
        if self._process is not None and not self._is_asked and self._process.poll() is None:
            self._is_asked = True
            self._process.terminate()

    def stop(self, within_s: float = STOP_WITHIN_S) -> None:
        """Ask the child to end, and kill it when it takes too long."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not end in time: killed", self.name)
            self._process.kill()
            self._process.wait()


class Child(_Supervised):
    """A command that runs as a child process."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        super().__init__(name)
        self._argv = list(argv)
        self._env = dict(env)

    def _launch(self) -> _Process:
        # A session of its own: Ctrl-C reaches us alone, and we end the children in order.
        return subprocess.Popen(
            self._argv,
            env={**os.environ, **self._env},
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - takes no lock
        )


class Forked(_Supervised):
    """A function that runs in a fork of this process, which must not have threads yet.

    It inherits the handlers that `stop_event` has set, and its own copy of the event.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        super().__init__(name)
        self._run = run

    def _launch(self) -> _Process:
        return _Fork(self._run)


class _Fork:
    def __init__(self, run: Callable[[], None]) -> None:
        parent_pid = os.getpid()

        def child() -> None:
            os.setsid()
            end_with_parent(parent_pid)
            try:
                run()
            except Exception as error:  # multiprocessing would print its text
                _log.critical("uncaught: %s", log.places(error))
                sys.exit(1)

        self._process = multiprocessing.get_context("fork").Process(target=child)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0.0)
        return status


def stop_all(children: Sequence[_Supervised], within_s: float = STOP_WITHIN_S) -> None:
    """Ask all to end at the same time, and kill those that take longer than this together."""
    deadline = time.monotonic() + within_s
    for child in children:
        child.terminate()
    for child in children:
        child.stop(max(deadline - time.monotonic(), 0.0))


def watch(children: Sequence[_Supervised], stop: threading.Event) -> int:
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
