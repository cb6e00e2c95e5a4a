"""Sending wake-ups without ever waiting for the broker.

A wake-up that cannot be sent is dropped: the reconciler finds the row.
"""

import threading
import time
from collections.abc import Callable

from celery import Celery

from worker import log
from worker.celery_app import task_name

_log = log.get("notify")
INTERVAL_S = 0.02  # a message costs a millisecond or two, and its receiver a transaction
CLOSE_WITHIN_S = 1.0
_PAUSE_AFTER_FAILURE_S = 2.0
_OF_ONE_DESTINATION = {"deliver", "commit"}

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
    """A thread that sends wake-ups for callers that must not wait, a bounded number of them.

    A woken worker takes whatever is due in its stage, not just the row that woke it. So a message
    goes out at once, and then the newest of those that came meanwhile, once per interval: the
    last one always does, and a burst of stores costs a burst of neither messages nor claims.
    What belongs to one destination wakes that one alone; destinations are told apart.
    """

    def __init__(self, app: Celery, *, interval_s: float = INTERVAL_S) -> None:
        self._app = app
        self._interval_s = interval_s
        self._newest: dict[tuple[str, str], str] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def __call__(self, stage: str, key: str) -> None:
        with self._changed:
            self._newest[stage, key if stage in _OF_ONE_DESTINATION else ""] = key
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, for at most CLOSE_WITHIN_S, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._closed)
                if not self._newest:
                    return
                wakeups, self._newest = self._newest, {}
            sent = [send(self._app, stage, key) for (stage, _), key in wakeups.items()]
            time.sleep(self._interval_s if all(sent) else _PAUSE_AFTER_FAILURE_S)
