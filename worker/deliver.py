"""The stage deliver: what is due for one destination leaves over one association.

A destination that cannot be used is left alone for a while that doubles with each failure,
jittered, up to an hour, for as long as DELIVERY_AGE_MAX_DAYS: a PACS may be down for days.
An object that a reachable destination refuses is tried REFUSALS_MAX times, or once if the
destination says that it will never take it.
"""

import time
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from pydicom.uid import generate_uid

from db import deliveries, destinations
from db.claims import DELIVER, Claim, due_destinations, hand_back
from db.deliveries import DueDelivery
from db.errors import LeaseLost
from db.reports import BuiltObject
from db.tables import ObjectKind
from dicom_io import scu, stow
from dicom_io.comprehensive import as_comprehensive
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.destination import Destination, WebDestination
from dicom_io.errors import DestinationUnavailable, DicomError
from dicom_io.scu import SendObject, SendResult, StoragePeer
from dicom_io.sr_report import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR
from dicom_io.stow import WebPeer
from worker import log
from worker.audit_message import Participant, Transfer, exported
from worker.destinations import Recipient
from worker.messages import made, mllp, webhook
from worker.messages.address import MllpDestination, WebhookDestination
from worker.patience import REFUSALS_MAX, backoff_s, is_too_old
from worker.services import Services

DELIVERING_S = 10.0  # at one destination, and to the end of the object begun by then
BUSY_MAX_S = 60.0  # with what connecting and an object's DIMSE time-out may take besides
TIME_LIMIT_S = 150  # of the task; slow destinations are cut off and tried again
LEASE_S = TIME_LIMIT_S + 10.0
OBJECTS_PER_ASSOCIATION_MAX = 50
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6

_log = log.get("deliver")

Peer = StoragePeer | WebPeer | mllp.MllpPeer | webhook.WebhookPeer


def deliver(services: Services, name: str) -> int:
    """Send what is due for the destination of this name; returns how many were accepted.

    One worker at a time, and for a few seconds: a slow destination with much to come leaves the
    other workers, and its own turn at the queue, to those who wait behind it.
    """
    with services.database.begin() as tx:
        until = destinations.engage(tx, name, for_s=BUSY_MAX_S)
        if until is None:
            return 0  # whoever is at it looks again when done
        claims = deliveries.claim_due(tx, name, limit=OBJECTS_PER_ASSOCIATION_MAX, lease_s=LEASE_S)
        due = deliveries.due_deliveries(tx, claims)
        if not due:
            destinations.disengage(tx, name, until)
            return 0
    try:
        return _deliver_due(services, name, due)
    finally:
        with services.database.begin() as tx:
            destinations.disengage(tx, name, until)
            is_more_due = name in due_destinations(tx, DELIVER)
        if is_more_due:
            services.notify("deliver", name)


def _deliver_due(services: Services, name: str, due: list[DueDelivery]) -> int:
    recipient = services.settings.recipient(name)
    if recipient is None:
        _postpone_all(services, name, due, "not among the destinations")
        return 0
    waiting = list(due)
    accepted = 0
    try:
        with _peer(services, recipient, due) as peer:
            deadline = time.monotonic() + DELIVERING_S
            while waiting and time.monotonic() < deadline:
                delivery = waiting[0]
                sent = _deliver(services, recipient, peer, delivery)
                waiting.pop(0)
                accepted += sent
                if not sent:  # what was made later must not arrive before it
                    _put_back_study(services, waiting, delivery)
        _hand_back(services, waiting)
    except DestinationUnavailable as error:
        _log.warning("destination %s: %s", name, error)
        _postpone_all(services, name, waiting, str(error))
        return accepted
    if recipient.storage_commitment and accepted:
        services.notify("commit", name)
    return accepted


def _peer(
    services: Services, recipient: Recipient, due: list[DueDelivery]
) -> AbstractContextManager[Peer]:
    match recipient.address:
        case Destination() as scp:
            proposed = {
                (it.sop_class_uid, it.transfer_syntax_uid): None
                for it in due
                if it.sop_class_uid  # no message, from when the name had another meaning
            }
            # Where there is nothing to propose, so that each can be refused for what it is.
            if not proposed or any(it.sop_class_uid == COMPREHENSIVE_3D_SR for it in due):
                proposed[COMPREHENSIVE_SR, EXPLICIT_VR_LITTLE_ENDIAN] = None
            aet = recipient.calling_ae_title or services.settings.ae_title
            return scu.storing(list(proposed), scp, aet)
        case WebDestination() as server:
            return stow.storing(server)
        case MllpDestination() as receiver:
            return mllp.storing(receiver)
        case WebhookDestination() as listener:
            return webhook.storing(listener)


def _deliver(services: Services, recipient: Recipient, peer: Peer, delivery: DueDelivery) -> bool:
    """Send one object, in the SOP class that the destination takes, and record what it said."""
    may_convert = delivery.kind == ObjectKind.SR and delivery.sop_class_uid == COMPREHENSIVE_3D_SR
    try:
        if may_convert and (
            recipient.sr_class == "comprehensive"
            or (not peer.accepts(COMPREHENSIVE_3D_SR) and peer.accepts(COMPREHENSIVE_SR))
        ):
            delivery, may_convert = _converted(services, delivery), False
        result = _store(services, recipient, peer, delivery)
        if may_convert and result.status == SOP_CLASS_NOT_SUPPORTED:
            delivery = _converted(services, delivery)
            result = _store(services, recipient, peer, delivery)
    except DestinationUnavailable:
        raise
    except DicomError as error:  # it holds what a Comprehensive SR may not
        result = _failure(delivery, f"cannot be converted: {error}", refused=True)
    except _WithdrawnError:
        result = _failure(delivery, "withdrawn before it was sent", final=True)
    except Exception as error:  # its leases would end, and nobody be told why
        result = _failure(delivery, log.where(error))
    if result.error is None:
        _audit(services, recipient, delivery)
        return _record_sent(services, recipient, delivery.held)
    extra = {"sop_instance_uid": delivery.sop_instance_uid}
    _log.warning("not delivered: %s", result.error, extra=extra)
    _put_back(
        services,
        delivery,
        result.error,
        backoff_s(delivery.held.attempts),
        refused=result.refused,
        final=result.final,
    )
    return False


def _audit(services: Services, recipient: Recipient, delivery: DueDelivery) -> None:
    match recipient.address:
        case Destination() as scp:
            peer, host = scp.ae_title, scp.host
        case WebDestination() as server:
            peer, host = server.url, ""
        case MllpDestination() as receiver:
            _audit_message(services, delivery, receiver.host)
            return
        case WebhookDestination() as listener:
            _audit_message(services, delivery, urlsplit(listener.url).hostname or "")
            return
    what = Transfer(
        peer=peer,
        peer_address=host,
        is_incoming=False,
        study_instance_uid=delivery.study_instance_uid,
        patient_id=delivery.patient_id or "",
    )
    services.audit.transferred(what, delivery.sop_class_uid)


def _audit_message(services: Services, delivery: DueDelivery, to: str) -> None:
    audit = services.audit
    ours = Participant(user_id=audit.ae_title, is_requestor=True)
    patient_id = (delivery.patient_id or "") if audit.names_patients else ""
    audit.report(exported(ours, delivery.study_instance_uid, patient_id=patient_id, to=to))


def _store(
    services: Services, recipient: Recipient, peer: Peer, delivery: DueDelivery
) -> SendResult:
    with services.database.read() as tx:
        payload = deliveries.payload(tx, delivery.object_id)
    if payload is None:
        return _failure(delivery, "its study was erased")
    if not made.fits(recipient.address, payload):
        error = "made for another kind of destination: its name had another meaning then"
        return _failure(delivery, error, refused=True)
    return peer.store(
        SendObject(
            sop_class_uid=delivery.sop_class_uid,
            sop_instance_uid=delivery.sop_instance_uid,
            transfer_syntax_uid=delivery.transfer_syntax_uid,
            payload=payload,
        )
    )


def _failure(
    delivery: DueDelivery, error: str, *, refused: bool = False, final: bool = False
) -> SendResult:
    uid = delivery.sop_instance_uid
    return SendResult(sop_instance_uid=uid, status=None, error=error, refused=refused, final=final)


class _WithdrawnError(Exception):
    """A note names the report as it was made; in another SOP class nothing would reject it."""


def _converted(services: Services, delivery: DueDelivery) -> DueDelivery:
    """The same report as a Comprehensive SR: made once, and kept before it is sent.

    Raises _WithdrawnError where that was not made before the report was withdrawn.
    """
    database = services.database
    with database.read() as tx:
        known = deliveries.conversion(tx, delivery.object_id, COMPREHENSIVE_SR)
        payload = deliveries.payload(tx, delivery.object_id)
        earlier = deliveries.converted_predecessors(tx, delivery.object_id, COMPREHENSIVE_SR)
    if payload is None:
        return delivery
    uid = str(generate_uid(prefix=None))
    references = [(it.sop_class_uid, it.sop_instance_uid) for it in earlier]
    converted = BuiltObject(
        kind=delivery.kind,
        sop_class_uid=COMPREHENSIVE_SR,
        sop_instance_uid=uid,
        series_instance_uid=delivery.series_instance_uid,
        transfer_syntax_uid=delivery.transfer_syntax_uid,
        payload=b"" if known else as_comprehensive(payload, uid, references),
        destinations=(),
    )
    with database.begin() as tx:
        if known is None and deliveries.is_withdrawn(tx, delivery):
            raise _WithdrawnError
        object_id = known or deliveries.insert_conversion(tx, delivery, converted)
        return deliveries.deliver_instead(tx, delivery.held, object_id)


def _record_sent(services: Services, recipient: Recipient, held: Claim) -> bool:
    try:
        with services.database.begin() as tx:
            deliveries.record_sent(tx, held, ask_commitment=recipient.storage_commitment)
    except LeaseLost as lost:
        _log.warning("%s", lost)
    return True


def _put_back_study(services: Services, waiting: list[DueDelivery], failed: DueDelivery) -> None:
    """Let the later objects of a study wait for the one that did not get through."""
    for later in [it for it in waiting if it.study_id == failed.study_id]:
        waiting.remove(later)
        wait_s = backoff_s(failed.held.attempts)
        _put_back(services, later, "an earlier object of the study waits", wait_s)


def _hand_back(services: Services, waiting: list[DueDelivery]) -> None:
    """What there was no time for is due again, and counts as never tried."""
    for delivery in waiting:
        try:
            with services.database.begin() as tx:
                hand_back(tx, DELIVER, delivery.held, error=delivery.held.error)
        except LeaseLost as lost:
            _log.warning("%s", lost)


def _postpone_all(services: Services, name: str, due: list[DueDelivery], error: str) -> None:
    wait_s = backoff_s(max(delivery.held.attempts for delivery in due))
    for delivery in due:
        _put_back(services, delivery, error, wait_s)
    with services.database.begin() as tx:
        deliveries.postpone_destination(tx, name, error=error, retry_in_s=wait_s)


def _put_back(
    services: Services,
    delivery: DueDelivery,
    error: str,
    wait_s: float,
    *,
    refused: bool = False,
    final: bool = False,
) -> None:
    """Try an object again after a while, or never: refused for good or too often, or too old."""
    give_up = final or (refused and delivery.refusals + 1 >= REFUSALS_MAX)
    try:
        with services.database.begin() as tx:
            if refused:
                deliveries.record_refusal(tx, delivery.held)
            if give_up or is_too_old(tx.now, delivery.created_at):
                deliveries.record_delivery_failure(tx, delivery.held, error)
            else:
                deliveries.postpone(tx, delivery.held, error=error, retry_in_s=wait_s)
    except LeaseLost as lost:
        _log.warning("%s", lost)
