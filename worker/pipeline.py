"""The stages prepare and infer: from a stored file to a band. Report and deliver: see there.

Each function works on rows that it claims itself, so that a wake-up is only a hint: the named
row comes first, then whatever else is due, for a bounded time. A stage may be cut off at any
instruction; the row's lease then ends and another worker starts it again.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import outcomes
from db.claims import INFER, PREPARE, Claim, Stage, claim, due_keys, release
from db.engine import Transaction
from db.errors import LeaseLost
from db.outcomes import Outcome, StoredPixels, StudyProgress
from db.tables import InstanceState, instances
from dicom_io import eligibility, preprocess, voi
from dicom_io.errors import DicomError, NoPixels, UnsupportedPixels
from dicom_io.read import age_years, read_dataset
from model.bundle import UNLIKE_TRAINING
from model.predict import Predictor
from worker import log
from worker.celery_app import TASK_TIME_LIMIT_S
from worker.challenger import Challenger, Judged
from worker.saliency import as_stored
from worker.services import Services

ATTEMPTS_MAX = 3
LEASE_S = 20.0  # a row of a killed worker waits as long; its work takes a second or two
DRAIN_S = 5.0  # how long one wake-up goes on with other due rows
assert DRAIN_S + LEASE_S < TASK_TIME_LIMIT_S
RETRY_AFTER_S = 5.0
BATCH_MAX = 32  # of one claim and one transaction; the predictor divides it as suits the machine

_log = log.get("pipeline")


def prepare(services: Services, sop_instance_uid: str | None) -> int:
    """Turn due instances into the model's pictures; returns how many."""
    return drain(services, PREPARE, sop_instance_uid, 1, lambda held: _prepare(services, held[0]))


def infer(
    services: Services,
    predictor: Predictor,
    sop_instance_uid: str | None,
    challenger: Challenger | None = None,
) -> int:
    """Predict due instances, as many at once as wait; returns how many.

    challenger: gets the same pictures afterwards, while no image waits.
    """
    done = drain(
        services,
        INFER,
        sop_instance_uid,
        BATCH_MAX,
        lambda held: _infer(services, predictor, held, challenger),
        ahead=True,
    )
    if challenger is not None:
        waits = partial(_any_waits, services)
        if challenger.work(services.database, waits, within_s=DRAIN_S):
            services.notify(INFER.name, "")  # goes on behind what came meanwhile
    return done


def _any_waits(services: Services) -> bool:
    with services.database.read() as tx:
        return bool(due_keys(tx, INFER, limit=1))


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
        done += len(held)
        first = None
        if coming is None and time.monotonic() > deadline:
            services.notify(stage.name, "")
            return done


def is_poison(held: Claim) -> bool:
    return held.attempts > ATTEMPTS_MAX


def poison_reason(held: Claim) -> str:
    last = held.error or "the worker ended without a word"
    return f"given up after {ATTEMPTS_MAX} attempts; the last: {last}"


def _prepare(services: Services, held: Claim) -> None:
    if is_poison(held):
        _dismiss(services, PREPARE, held, InstanceState.FAILED, poison_reason(held))
        return
    with services.database.read() as tx:
        query = sa.select(instances.c.spool_name, instances.c.sop_instance_uid)
        row = tx.conn.execute(query.where(instances.c.id == held.id)).one()
    try:
        ds = read_dataset(services.spool.path(row.spool_name))
        reason = eligibility.reason_to_reject(ds, services.policy)
        picture = None if reason else preprocess.from_dataset(ds)
        age = age_years(ds)
    except (NoPixels, UnsupportedPixels) as error:
        _dismiss(services, PREPARE, held, InstanceState.REJECTED, str(error))
        return
    except DicomError as error:  # broken, and no better next time
        _dismiss(services, PREPARE, held, InstanceState.FAILED, str(error))
        return
    if picture is None:
        _dismiss(services, PREPARE, held, InstanceState.REJECTED, reason or "")
        return
    if voi.windows(ds) > 1:
        extra = {"sop_instance_uid": row.sop_instance_uid}
        _log.info("several windows: the first is used", extra=extra)
    use = services.bundle.intended_use
    intended = eligibility.intended_use(age, use.min_age_years, use.max_age_years)
    stored = StoredPixels(
        preprocess_version=preprocess.VERSION,
        rows=picture.shape[0],
        columns=picture.shape[1],
        data=picture.tobytes(),
    )
    with services.database.begin() as tx:
        outcomes.record_prepared(tx, held, stored, intended_use=intended)
    services.notify("infer", row.sop_instance_uid)


def _infer(
    services: Services,
    predictor: Predictor,
    claims: list[Claim],
    challenger: Challenger | None = None,
) -> None:
    for held in claims:
        if is_poison(held):
            _dismiss(services, INFER, held, InstanceState.FAILED, poison_reason(held))
    claims = [held for held in claims if not is_poison(held)]
    with services.database.read() as tx:
        stored = outcomes.stored_pixels(tx, [held.id for held in claims])
    version = services.bundle.preprocess_version
    usable = {id_: it for id_, it in stored.items() if it.preprocess_version == version}
    for held in claims:
        if held.id not in usable:  # prepared before an upgrade
            with services.database.begin() as tx:
                outcomes.prepare_again(tx, held)
    ready = [held for held in claims if held.id in usable]
    if not ready:
        return
    batch = np.stack([_picture(usable[held.id]) for held in ready])
    started = time.perf_counter()
    outputs = predictor.predict(batch)
    seconds = (time.perf_counter() - started) / len(ready)
    maps = [None] * len(ready) if outputs.saliency is None else outputs.saliency
    results = zip(ready, outputs.logits, outputs.ood_scores, maps, strict=True)
    with services.database.begin() as tx:
        ended = [
            (held, _conclusion(services, tx, float(logit), float(ood_score), saliency))
            for held, logit, ood_score, saliency in results
        ]
        studies, lost = outcomes.record_outcomes(tx, INFER, ended)
    for held in lost:
        _log.warning("%s: the lease on row %s is over", INFER.name, held.id)
    for progress in studies:
        _report_if_complete(services, progress)
    if challenger is not None:
        judged = [
            Judged(
                instance_id=held.id,
                picture=picture,
                name=services.bundle.name,
                version=services.bundle.version,
                probability=outcome["probability"],
                band=outcome["band"],
                seconds=seconds,
            )
            for (held, outcome), picture in zip(ended, batch, strict=True)
            if held not in lost
        ]
        challenger.offer(services.database, judged)


def _conclusion(
    services: Services,
    tx: Transaction,
    logit: float,
    ood_score: float,
    saliency: NDArray[np.float32] | None,
) -> Outcome:
    """One picture's result, or that it is too unlike the training images to have one."""
    ood = services.bundle.ood
    if ood.is_far(ood_score):
        return outcomes.dismissal_outcome(
            InstanceState.REJECTED, UNLIKE_TRAINING, ood_score=ood_score
        )
    prediction = services.interpreter.interpret(logit)
    row = outcomes.Prediction(
        logit=prediction.logit,
        raw_probability=prediction.raw_probability,
        probability=prediction.probability,
        band=prediction.band,
        ood_score=ood_score,
        outside_intended_use=ood.is_outside(ood_score),
        model_name=services.bundle.name,
        model_version=services.bundle.version,
        saliency=None if saliency is None else as_stored(saliency),
    )
    return outcomes.prediction_outcome(tx, row)


def _picture(stored: StoredPixels) -> NDArray[np.uint8]:
    return np.frombuffer(stored.data, np.uint8).reshape(stored.rows, stored.columns)


def _dismiss(
    services: Services,
    stage: Stage,
    held: Claim,
    state: InstanceState,
    reason: str,
    *,
    ood_score: float | None = None,
) -> None:
    with services.database.begin() as tx:
        progress = outcomes.record_dismissal(tx, stage, held, state, reason, ood_score=ood_score)
    _report_if_complete(services, progress)


def _retry(services: Services, stage: Stage, claims: list[Claim], error: Exception) -> None:
    said = log.where(error)
    _log.error("%s: attempt %s failed: %s", stage.name, claims[0].attempts, said)
    for held in claims:
        wait_s = RETRY_AFTER_S * 2 ** (held.attempts - 1)
        try:
            with services.database.begin() as tx:
                release(tx, stage, held, error=said, retry_in_s=wait_s)
        except LeaseLost:  # done before the error, or taken over
            continue


def _report_if_complete(services: Services, progress: StudyProgress | None) -> None:
    """A study whose settle time is over already need not wait for the reconciler."""
    if progress is not None and progress.pending_count == 0:
        services.notify("report", progress.study_instance_uid)
