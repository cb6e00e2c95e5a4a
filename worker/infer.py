"""The stage infer: from the model's picture to a band. It loads nothing that reads DICOM."""

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from db import outcomes
from db.claims import INFER, Claim, due_keys
from db.engine import Transaction
from db.outcomes import Outcome, StoredPixels
from db.tables import InstanceState
from model.bundle import UNLIKE_TRAINING
from model.predict import Predictor
from worker import log
from worker.challenger import Challenger, Judged
from worker.drain import DRAIN_S, dismiss, drain, is_poison, poison_reason, report_if_complete
from worker.saliency_map import as_stored
from worker.services import Services

BATCH_MAX = 32  # of one claim and one transaction; the predictor divides it as suits the machine

_log = log.get("infer")


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


def _infer(
    services: Services,
    predictor: Predictor,
    claims: list[Claim],
    challenger: Challenger | None = None,
) -> None:
    for held in claims:
        if is_poison(held):
            dismiss(services, INFER, held, InstanceState.FAILED, poison_reason(held))
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
        report_if_complete(services, progress)
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
