"""The reconciler: wake-ups for rows that are due and that no message speaks of.

It makes the broker dispensable: messages may be lost, and every process may be killed at any
instruction. What it sends is bounded by what waits in the queue, not by how many rows are due.
"""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import zip_longest

from celery import Celery

from db.claims import (
    COMMIT,
    DELIVER,
    INFER,
    PREPARE,
    REPORT,
    Stage,
    due_destinations,
    due_keys,
    make_all_due,
)
from db.engine import Database, Transaction
from worker import log
from worker.celery_app import QUEUES
from worker.notify import send

TICK_S = 0.5
PAUSE_AFTER_FAILURE_S = 2.0
CLOCK_STEP_MIN_S = 10.0
QUEUED_MAX = 8  # per queue: a drained row wakes others, so a few messages suffice
ROWS_WOKEN = 4

_log = log.get("reconcile")


def run(database: Database, app: Celery, stop: threading.Event) -> None:
    """Send wake-ups until `stop` is set; outlives a database or a broker that is down."""
    clock = Clock()
    while not stop.wait(TICK_S):
        try:
            follow_clock(database, clock)
            tick(database, app)
        except Exception as error:  # whatever a broker or a database does when it is killed
            _log.warning("nothing woken: %s", log.where(error))
            stop.wait(PAUSE_AFTER_FAILURE_S)


class Clock:
    """Notices when the database's clock is set back."""

    def __init__(self) -> None:
        self._last: tuple[datetime, float] | None = None
        self.owed_s = 0.0  # of a step that was seen and not yet followed

    def stepped_back_s(self, now: datetime, monotonic_s: float) -> float:
        """By how many seconds `now` is behind what it should be since the last look."""
        last, self._last = self._last, (now, monotonic_s)
        if last is None:
            return 0.0
        return (monotonic_s - last[1]) - (now - last[0]).total_seconds()


def follow_clock(database: Database, clock: Clock) -> None:
    """After a step back, what was due in a minute would wait for the step as well."""
    with database.read() as tx:
        behind_s = clock.stepped_back_s(tx.now, time.monotonic())
    if behind_s >= CLOCK_STEP_MIN_S:
        clock.owed_s += behind_s
    if not clock.owed_s:
        return
    with database.begin() as tx:
        count = make_all_due(tx)
    _log.warning("the clock was set back by %.0f s: %s rows made due", clock.owed_s, count)
    clock.owed_s = 0.0


def tick(database: Database, app: Celery) -> int:
    """One look at every stage; returns how many wake-ups were sent."""
    with database.read() as tx:
        due = due_now(tx)
    if not any(due.values()):
        return 0
    room = {queue: QUEUED_MAX - waiting for queue, waiting in queue_lengths(app).items()}
    sent = 0
    for stage, key in _dealt(due):
        queue = QUEUES[stage.name]
        if room[queue] > 0:
            room[queue] -= 1
            sent += send(app, stage.name, key)
    return sent


def _dealt(due: dict[Stage, list[str]]) -> Iterator[tuple[Stage, str]]:
    """One for each stage, then the second of each: a backlog of one leaves room for the others.

    What is nearest to its end comes first.
    """
    for row in zip_longest(*reversed(due.values())):
        for stage, key in zip(reversed(due), row, strict=True):
            if key is not None:
                yield stage, key


def due_now(tx: Transaction) -> dict[Stage, list[str]]:
    """What each stage is to be woken for, the most urgent first."""
    keys = {stage: due_keys(tx, stage, limit=ROWS_WOKEN) for stage in (PREPARE, INFER, REPORT)}
    return keys | {stage: due_destinations(tx, stage) for stage in (DELIVER, COMMIT)}


def queue_lengths(app: Celery) -> dict[str, int]:
    """How many messages wait in each queue; raises what kombu raises when it is down."""
    with app.connection_for_write() as connection:
        client = connection.default_channel.client
        return {queue: int(client.llen(queue)) for queue in set(QUEUES.values())}
