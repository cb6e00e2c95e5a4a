"""How a stage works through its rows: claim, work, go on, for a bounded time.

Each stage claims its rows itself, so that a wake-up is only a hint: the named row comes first, then
whatever else is due. A stage may be cut off at any instruction; the row's lease then ends and
another worker starts it again.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from db import outcomes
from db.claims import Claim, Stage, claim, due_keys, hand_back, release
from db.errors import LeaseLost
from db.outcomes import StudyProgress
from db.tables import InstanceState
from worker import log
from worker.celery_app import TASK_TIME_LIMIT_S
from worker.services import Services

ATTEMPTS_MAX = 3
LEASE_S = 20.0  # a row of a killed worker waits as long; its work takes a second or two
DRAIN_S = 5.0  # how long one wake-up goes on with other due rows
assert DRAIN_S + LEASE_S < TASK_TIME_LIMIT_S
RETRY_AFTER_S = 5.0
TROUBLE_RETRY_AFTER_S = 15.0
TROUBLE_MAX = timedelta(days=1)  # for a file that only looks like the disk's trouble

_log = log.get("stage")


def drain(
    services: Services,
    stage: Stage,
    first: str | None,
    limit: int,
    work: Callable[[list[Claim]], None],
    *,
    ahead: bool = False,
) -> int:
    """Claim and work until nothing is due or DRAIN_S is over; the next wake-up goes on.

    ahead: claim the next rows while the work on these runs, if as many wait as fit.
    """
    with ThreadPoolExecutor(1) as pool:
        return _drain(services, stage, first, limit, work, pool if ahead else None)


def _drain(
    services: Services,
    stage: Stage,
    first: str | None,
    limit: int,
    work: Callable[[list[Claim]], None],
    pool: ThreadPoolExecutor | None,
) -> int:
    def claim_full_batch() -> list[Claim]:
        with services.database.begin() as tx:
            if len(due_keys(tx, stage, limit=limit)) < limit:  # more may come meanwhile
                return []
            return claim(tx, stage, limit=limit, lease_s=LEASE_S, untried_only=True)

    deadline = time.monotonic() + DRAIN_S
    done = 0
    coming: Future[list[Claim]] | None = None
    while True:
        held = coming.result() if coming else []
        if not held:
            with services.database.begin() as tx:
                held = claim(tx, stage, limit=limit, lease_s=LEASE_S, first=first)
        if not held:
            return done
        # What is claimed beside a row that was tried before might die with it.
        coming = None
        if pool and held[0].attempts == 1 and time.monotonic() < deadline:
            coming = pool.submit(claim_full_batch)
        try:
            work(held)
        except LeaseLost as lost:
            _log.warning("%s", lost)
        except Exception as error:  # one bad row must not end the worker
            _retry(services, stage, held, error)
            if _is_trouble(error) and coming is None:  # nor would the next row be done
                return done
        done += len(held)
        first = None
        if coming is None and time.monotonic() > deadline:
            services.notify(stage.name, "")
            return done


def _retry(services: Services, stage: Stage, claims: list[Claim], error: Exception) -> None:
    said = log.where(error)
    _log.error("%s: attempt %s failed: %s", stage.name, claims[0].attempts, said)
    for held in claims:
        try:
            with services.database.begin() as tx:
                if _is_trouble(error):
                    hand_back(tx, stage, held, error=said, retry_in_s=TROUBLE_RETRY_AFTER_S,
                              younger_than=TROUBLE_MAX)  # fmt: skip
                else:
                    wait_s = RETRY_AFTER_S * 2 ** (held.attempts - 1)
                    release(tx, stage, held, error=said, retry_in_s=wait_s)
        except LeaseLost:  # done before the error, or taken over
            continue


def _is_trouble(error: Exception) -> bool:
    """Whether it is the disk or the database that fails, whatever the row: no poison."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    return isinstance(error, OperationalError | InterfaceError | TimeoutError)


def is_poison(held: Claim) -> bool:
    return held.attempts > ATTEMPTS_MAX


def poison_reason(held: Claim) -> str:
    last = held.error or "the worker ended without a word"
    return f"given up after {ATTEMPTS_MAX} attempts; the last: {last}"


def dismiss(
    services: Services, stage: Stage, held: Claim, state: InstanceState, reason: str
) -> None:
    """End an instance without a prediction."""
    with services.database.begin() as tx:
        progress = outcomes.record_dismissal(tx, stage, held, state, reason)
    report_if_complete(services, progress)


def report_if_complete(services: Services, progress: StudyProgress | None) -> None:
    """A study whose settle time is over already need not wait for the reconciler."""
    if progress is not None and progress.pending_count == 0:
        services.notify("report", progress.study_instance_uid)
