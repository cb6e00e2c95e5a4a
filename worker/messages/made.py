"""The messages of a report, of one that could not be made, and of one that is withdrawn."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from pydicom.uid import generate_uid

from db.reports import BuiltObject
from db.tables import ObjectKind
from dicom_io.rejection import Reason
from dicom_io.sr_report import StudyReport
from worker.destinations import Address, Recipient
from worker.messages import hl7, webhook
from worker.messages.address import MllpDestination, WebhookDestination
from worker.messages.content import told


def of_report(
    report: StudyReport, recipients: Iterable[Recipient], told_before: frozenset[str]
) -> list[BuiltObject]:
    """One message for each of these destinations that is to be told of the report.

    told_before: who was told of an earlier report of the study; they are told of any later one,
    and only they that it corrects something.
    """
    said = told(report)
    made = []
    for recipient in recipients:
        content = replace(said, is_correction=recipient.name in told_before)
        address, uid = recipient.address, _new_uid()
        if isinstance(address, MllpDestination):
            made.append(_message(recipient, uid, hl7.oru(content, address, uid)))
        elif isinstance(address, WebhookDestination):
            wanted = webhook.event_of(content) in address.events
            if wanted or recipient.name in told_before:
                body = webhook.result_body(content, with_patient=address.patient)
                made.append(_message(recipient, uid, body))
    return made


def of_failure(
    study_instance_uid: str, revision: int, now: datetime, recipients: Iterable[Recipient]
) -> list[BuiltObject]:
    """One message for each webhook that wants to know of reports that could not be made."""
    body = webhook.failure_body(study_instance_uid, revision, now)
    return [
        _message(recipient, _new_uid(), body)
        for recipient in recipients
        if isinstance(recipient.address, WebhookDestination)
        and "failed" in recipient.address.events
    ]


def withdrawal(recipient: Recipient, sent: bytes, reason: Reason, now: datetime) -> BuiltObject:
    """What takes back the newest message that a destination was sent."""
    address, uid = recipient.address, _new_uid()
    if isinstance(address, MllpDestination):
        payload = hl7.withdrawal(sent, address, uid, now)
    else:
        payload = webhook.withdrawal_body(sent, reason.value, now)
    return _message(recipient, uid, payload, ObjectKind.REJECTION)


def fits(address: Address, payload: bytes) -> bool:
    """Whether an object was made for this kind of destination: a name may have got another one."""
    if isinstance(address, MllpDestination):
        return payload.startswith(b"MSH")
    if isinstance(address, WebhookDestination):
        return payload.startswith(b"{")
    return not payload.startswith((b"MSH", b"{"))  # a Part 10 file begins with its preamble


def _message(
    recipient: Recipient, uid: str, payload: bytes, kind: ObjectKind = ObjectKind.MESSAGE
) -> BuiltObject:
    return BuiltObject(
        kind=kind,
        sop_class_uid="",
        sop_instance_uid=uid,
        series_instance_uid="",
        transfer_syntax_uid="",
        payload=payload,
        destinations=(recipient.name,),
    )


def _new_uid() -> str:
    return str(generate_uid(prefix=None))
