"""The stage deliver: what is due for one destination leaves over one association.

A destination that cannot be reached is left alone for a while that doubles with each failure,
jittered, up to an hour, for as long as DELIVERY_AGE_MAX_DAYS: a PACS may be down for days.
An object that a reachable destination refuses is tried REFUSALS_MAX times.
"""

import random
from datetime import datetime, timedelta

from db import deliveries
from db.claims import DELIVER, claim_for
from db.deliveries import DueDelivery
from db.errors import LeaseLost
from dicom_io import scu
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable
from dicom_io.scu import SendObject, SendResult
from worker import log
from worker.services import Services

TIME_LIMIT_S = 150  # of the task; slow destinations are cut off and tried again
LEASE_S = TIME_LIMIT_S + 10.0
OBJECTS_PER_ASSOCIATION_MAX = 50
BACKOFF_MIN_S = 5.0
BACKOFF_MAX_S = 3600.0
DELIVERY_AGE_MAX_DAYS = 14
REFUSALS_MAX = 8

_log = log.get("deliver")


def deliver(services: Services, name: str) -> int:
    """Send what is due for the destination of this name; returns how many were accepted."""
    destination = _find(services, name)
    with services.database.begin() as tx:
        claims = claim_for(tx, DELIVER, name, limit=OBJECTS_PER_ASSOCIATION_MAX, lease_s=LEASE_S)
        due = deliveries.due_deliveries(tx, claims)
    if not due:
        return 0
    if destination is None:
        _postpone_all(services, name, due, "not among CXR_DESTINATIONS")
        return 0
    try:
        results = _send(services, destination, due)
    except DestinationUnavailable as error:
        _log.warning("destination %s: %s", name, error)
        _postpone_all(services, name, due, str(error))
        return 0
    accepted = sum(
        _record(services, delivery, results[delivery.sop_instance_uid]) for delivery in due
    )
    if len(due) == OBJECTS_PER_ASSOCIATION_MAX:
        services.notify("deliver", name)
    return accepted


def backoff_s(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: doubling, jittered by a quarter, capped."""
    wait_s = min(BACKOFF_MIN_S * 2 ** min(attempts - 1, 20), BACKOFF_MAX_S)
    return float(wait_s * random.uniform(0.75, 1.25))  # noqa: S311


def _find(services: Services, name: str) -> Destination | None:
    return next((d for d in services.settings.destinations if str(d) == name), None)


def _send(
    services: Services, destination: Destination, due: list[DueDelivery]
) -> dict[str, SendResult]:
    objects = [
        SendObject(
            sop_class_uid=delivery.sop_class_uid,
            sop_instance_uid=delivery.sop_instance_uid,
            transfer_syntax_uid=delivery.transfer_syntax_uid,
            payload=delivery.payload,
        )
        for delivery in due
    ]
    results = scu.send(objects, destination, calling_ae_title=services.settings.ae_title)
    return {result.sop_instance_uid: result for result in results}


def _record(services: Services, delivery: DueDelivery, result: SendResult) -> bool:
    held = delivery.held
    if result.error is not None:
        extra = {"sop_instance_uid": delivery.sop_instance_uid}
        _log.warning("not delivered: %s", result.error, extra=extra)
        refused = result.status is not None  # and not merely left out when all broke off
        give_up = refused and held.attempts >= REFUSALS_MAX
        _put_back(services, delivery, result.error, backoff_s(held.attempts), give_up=give_up)
        return False
    try:
        with services.database.begin() as tx:
            deliveries.record_sent(tx, held)
    except LeaseLost as lost:
        _log.warning("%s", lost)
        return False
    return True


def _postpone_all(services: Services, name: str, due: list[DueDelivery], error: str) -> None:
    wait_s = backoff_s(max(delivery.held.attempts for delivery in due))
    for delivery in due:
        _put_back(services, delivery, error, wait_s)
    with services.database.begin() as tx:
        deliveries.postpone_destination(tx, name, error=error, retry_in_s=wait_s)


def _put_back(
    services: Services, delivery: DueDelivery, error: str, wait_s: float, *, give_up: bool = False
) -> None:
    """Try an object again after a while, or never: when it is given up, or too old."""
    try:
        with services.database.begin() as tx:
            if give_up or _is_too_old(tx.now, delivery):
                deliveries.record_delivery_failure(tx, delivery.held, error)
            else:
                deliveries.postpone(tx, delivery.held, error=error, retry_in_s=wait_s)
    except LeaseLost as lost:
        _log.warning("%s", lost)


def _is_too_old(now: datetime, delivery: DueDelivery) -> bool:
    return now - delivery.created_at > timedelta(days=DELIVERY_AGE_MAX_DAYS)
