"""Sending wake-ups without ever waiting for the broker.

A wake-up that cannot be sent is dropped: the reconciler finds the row.
"""

import queue
import threading
import time
from collections.abc import Callable

from celery import Celery

from worker import log
from worker.celery_app import task_name

_log = log.get("notify")
_WAITING_MAX = 10_000
_PAUSE_AFTER_FAILURE_S = 2.0

Notify = Callable[[str, str], None]  # stage, key


def send(app: Celery, stage: str, key: str) -> bool:
    """Send one wake-up; False if the broker did not take it within its short time-outs."""
    try:
        app.send_task(task_name(stage), args=[key], ignore_result=True)
    except Exception as error:  # kombu raises what its transport raises
        _log.debug("broker took no wake-up: %s", type(error).__name__)
        return False
    return True


class Notifier:
    """A thread that sends wake-ups from a bounded queue, for callers that must not wait."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._queue: queue.Queue[tuple[str, str] | None] = queue.Queue(_WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def __call__(self, stage: str, key: str) -> None:
        try:
            self._queue.put_nowait((stage, key))
        except queue.Full:
            _log.debug("wake-up dropped: the queue is full")

    def close(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout=2)

    def _run(self) -> None:
        pause_until = 0.0
        while (item := self._queue.get()) is not None:
            if time.monotonic() < pause_until:
                continue
            if not send(self._app, *item):
                pause_until = time.monotonic() + _PAUSE_AFTER_FAILURE_S
