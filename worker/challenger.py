"""A second model beside the one whose results count: on the same pictures, when there is time.

It gets a picture only after the champion's outcome is committed, and runs one at a time while no
image waits. Its answers are kept in a table of their own: no report, delivery or band ever
comes of them. What it fails at, or has no time for, is counted there as well.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from db.comparisons import Comparison, ComparisonState, record_comparisons
from db.engine import Database
from model.bands import Interpreter
from model.bundle import Bundle
from model.predict import Outputs
from worker import log

WAITING_MAX = 256  # pictures of 49 KiB
BUSY = "no time: images kept coming"

_log = log.get("challenger")


class Predicts(Protocol):
    def predict(self, images: NDArray[np.uint8]) -> Outputs: ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A picture that the champion has judged, and what it said."""

    instance_id: int
    picture: NDArray[np.uint8]
    name: str
    version: str
    probability: float | None
    band: str | None
    seconds: float


class Challenger:
    """One challenger in one inference process."""

    def __init__(self, bundle: Bundle, predictor: Predicts, interpreter: Interpreter) -> None:
        self._bundle = bundle
        self._predictor = predictor
        self._interpreter = interpreter
        self._waiting: deque[Judged] = deque()

    def offer(self, database: Database, judged: Sequence[Judged]) -> None:
        """Remember pictures for later; those that waited longest make room. Never raises."""
        self._waiting.extend(judged)
        excess = [self._waiting.popleft() for _ in range(len(self._waiting) - WAITING_MAX)]
        if excess:
            state = ComparisonState.SKIPPED
            self._record(database, [self._compared(it, state=state, reason=BUSY) for it in excess])

    def work(
        self, database: Database, is_needed_elsewhere: Callable[[], bool], *, within_s: float
    ) -> bool:
        """Judge what waits until the champion has work again, or the time is over.

        Returns whether the time was over while pictures waited. Never raises.
        """
        deadline = time.monotonic() + within_s
        try:
            while self._waiting and not is_needed_elsewhere():
                self._record(database, [self._judge(self._waiting.popleft())])
                if time.monotonic() > deadline:
                    return bool(self._waiting)
        except Exception as error:  # whatever it is, images go on
            _log.error("challenger stopped for now: %s", log.where(error))
        return False

    def _judge(self, judged: Judged) -> Comparison:
        started = time.perf_counter()
        try:
            outputs = self._predictor.predict(judged.picture[None])
            logit, ood_score = float(outputs.logits[0]), float(outputs.ood_scores[0])
            said = self._interpreter.interpret(logit)
        except Exception as error:
            _log.error("challenger failed: %s", log.where(error))
            state = ComparisonState.FAILED
            return self._compared(judged, state=state, reason=log.where(error))
        compared = self._compared(judged, state=ComparisonState.PREDICTED)
        compared = replace(compared, challenger_s=time.perf_counter() - started)
        if self._bundle.ood.is_far(ood_score):
            return compared
        return replace(compared, challenger_probability=said.probability, challenger_band=said.band)

    def _compared(
        self, judged: Judged, *, state: ComparisonState, reason: str | None = None
    ) -> Comparison:
        return Comparison(
            instance_id=judged.instance_id,
            state=state,
            reason=reason,
            champion_name=judged.name,
            champion_version=judged.version,
            champion_probability=judged.probability,
            champion_band=judged.band,
            champion_s=judged.seconds,
            challenger_name=self._bundle.name,
            challenger_version=self._bundle.version,
        )

    def _record(self, database: Database, compared: list[Comparison]) -> None:
        try:
            with database.begin() as tx:
                record_comparisons(tx, compared)
        except Exception as error:  # the comparison is lost, and nothing else
            _log.error("comparison not kept: %s", log.where(error))
