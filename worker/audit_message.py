"""Audit messages as PS3.15 A.5 defines them: what happened, who took part, what it was about.

One function for each event, and `encode` for the XML of the schema in A.5.1. No message holds a
name, a date or a pixel; a patient's ID only where it is given (`CXR_AUDIT_PATIENT_ID`).
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from ipaddress import ip_address
from xml.etree import ElementTree as ET

TEXT_LENGTH_MAX = 256


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4  # it was prevented: for an alert, that what we did about it was enough
    SERIOUS_FAILURE = 8


@dataclass(frozen=True)
class Code:
    """A code of PS3.16, or of RFC 3881 where DICOM took it over."""

    code: str
    meaning: str
    system: str = "DCM"


@dataclass(frozen=True, kw_only=True)
class Participant:
    """A person or a process that took part."""

    user_id: str
    is_requestor: bool = False
    role: Code | None = None
    ae_title: str = ""
    address: str = ""  # IP, or the machine's name
    media: Code | None = None


@dataclass(frozen=True, kw_only=True)
class Thing:
    """What it was about. sop_classes: SOP Class UID and how many instances of it."""

    id_type: Code
    id: str
    type: int = 2  # system object
    role: int | None = None
    name: str = ""
    query: str | None = None
    details: Mapping[str, str] | None = None
    sop_classes: Mapping[str, int] | None = None
    is_study: bool = False


@dataclass(frozen=True, kw_only=True)
class Message:
    """One audit message, without its time and source."""

    event: Code
    action: str
    participants: tuple[Participant, ...]
    things: tuple[Thing, ...] = ()
    types: tuple[Code, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""


_SOURCE, _DESTINATION = Code("110153", "Source Role ID"), Code("110152", "Destination Role ID")
_STUDY_UID = Code("110180", "Study Instance UID")
_NODE_ID = Code("110182", "Node ID")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
_SEARCH_CRITERIA = Code("10", "Search Criteria", "RFC-3881")
_PATIENT, _REPORT, _SECURITY_RESOURCE, _QUERY = 1, 3, 13, 24  # ParticipantObjectTypeCodeRole


def ourselves(
    ae_title: str, *, role: Code | None = None, is_requestor: bool = False
) -> Participant:
    """This process (A.5.2.1: its ID, and its AE title beside it)."""
    return Participant(
        user_id=str(os.getpid()), ae_title=ae_title, role=role, is_requestor=is_requestor
    )


def application(ae_title: str, what: str, *, started: bool) -> Message:
    """A.5.3.1, Application Activity."""
    kind = ("110120", "Application Start") if started else ("110121", "Application Stop")
    us = ourselves(ae_title, role=Code("110150", "Application"))
    return Message(
        event=Code("110100", "Application Activity"),
        types=(Code(*kind),),
        action="E",
        participants=(us,),
        description=what,
    )


def refused_peer(ae_title: str, address: str, calling_ae_title: str, reason: str) -> Message:
    """A.5.3.11, Security Alert: a connection or an association that was refused."""
    title = clean(calling_ae_title)
    peer = Participant(user_id=title or address, ae_title=title, address=address)
    node = Thing(
        id_type=_NODE_ID,
        id=address,
        role=_SECURITY_RESOURCE,
        name=title or address,
        details={"Alert Description": reason},
    )
    return Message(
        event=Code("110113", "Security Alert"),
        types=(Code("110126", "Node Authentication"),),
        action="E",
        outcome=Outcome.MINOR_FAILURE,
        participants=(ourselves(ae_title, is_requestor=True), peer),
        things=(node,),
        description=reason,
    )


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Objects of one study between us and a peer."""

    peer: str  # its AE title, or its URL
    peer_address: str
    is_incoming: bool
    study_instance_uid: str
    patient_id: str = ""


def transfer(
    ae_title: str, what: Transfer, sop_classes: Mapping[str, int], *, done: bool
) -> Message:
    """A.5.3.3, Begin Transferring, or A.5.3.7, DICOM Instances Transferred."""
    there = Participant(
        user_id=what.peer,
        ae_title="" if "/" in what.peer else what.peer,
        address=what.peer_address,
        role=_SOURCE if what.is_incoming else _DESTINATION,
        is_requestor=what.is_incoming,
    )
    us = ourselves(
        ae_title,
        role=_DESTINATION if what.is_incoming else _SOURCE,
        is_requestor=not what.is_incoming,
    )
    name = "DICOM Instances Transferred" if done else "Begin Transferring DICOM Instances"
    return Message(
        event=Code("110104" if done else "110102", name),
        action="C" if done else "E",
        participants=(there, us) if what.is_incoming else (us, there),
        things=_about(what.study_instance_uid, what.patient_id, sop_classes),
    )


def accessed(
    user: Participant, study_instance_uid: str, *, patient_id: str = "", action: str = "R"
) -> Message:
    """A.5.3.6, DICOM Instances Accessed: a study that was looked at (R) or changed (U)."""
    return Message(
        event=Code("110103", "DICOM Instances Accessed"),
        action=action,
        participants=(user,),
        things=_about(study_instance_uid, patient_id),
    )


def exported(
    user: Participant, study_instance_uid: str, *, patient_id: str = "", to: str = ""
) -> Message:
    """A.5.3.4, Data Export: what of a study was downloaded, or sent otherwise than by DICOM.

    to: the address that it went to; empty is the user's own.
    """
    exporting = Participant(
        user_id=user.user_id, is_requestor=True, role=_SOURCE, address=user.address
    )
    target = Participant(
        user_id=to or user.address or user.user_id,
        role=Code("110154", "Destination Media"),
        address=to or user.address,
        media=Code("110037", "URI"),
    )
    return Message(
        event=Code("110106", "Export"),
        action="R",
        participants=(exporting, target),
        things=_about(study_instance_uid, patient_id),
    )


def deleted(user: Participant, study_instance_uid: str, *, patient_id: str = "") -> Message:
    """A.5.3.8, DICOM Study Deleted."""
    return Message(
        event=Code("110105", "DICOM Study Deleted"),
        action="D",
        participants=(user,),
        things=_about(study_instance_uid, patient_id),
    )


def queried(ae_title: str, user: Participant, what: str, criteria: str) -> Message:
    """A.5.3.10, Query: of our own, not by DICOM. criteria: what may be told of it."""
    asking = Participant(
        user_id=user.user_id, is_requestor=True, role=_SOURCE, address=user.address
    )
    return Message(
        event=Code("110112", "Query"),
        action="E",
        participants=(asking, ourselves(ae_title, role=_DESTINATION)),
        things=(Thing(id_type=_SEARCH_CRITERIA, id=what, role=_QUERY, query=criteria),),
    )


def signed_in(
    ae_title: str, user: Participant, *, leaves: bool = False, failed: bool = False
) -> Message:
    """A.5.3.12, User Authentication."""
    kind = ("110123", "Logout") if leaves else ("110122", "Login")
    return Message(
        event=Code("110114", "User Authentication"),
        types=(Code(*kind),),
        action="E",
        outcome=Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS,
        participants=(user, ourselves(ae_title)),
    )


def _about(
    study_instance_uid: str, patient_id: str, sop_classes: Mapping[str, int] | None = None
) -> tuple[Thing, ...]:
    study = Thing(
        id_type=_STUDY_UID,
        id=study_instance_uid,
        role=_REPORT,
        name=study_instance_uid,
        sop_classes=sop_classes or {},
        is_study=True,
    )
    if not patient_id:
        return (study,)
    patient = Thing(
        id_type=_PATIENT_NUMBER, id=patient_id, type=1, role=_PATIENT, name="not recorded"
    )
    return (study, patient)


def encode(message: Message, *, at: datetime, source_id: str) -> bytes:
    """The XML of a message (A.5.1), UTF-8 on one line. at: aware."""
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=at.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(int(message.outcome)),
    )
    _add_code(event, "EventID", message.event)
    for code in message.types:
        _add_code(event, "EventTypeCode", code)
    if message.description:
        ET.SubElement(event, "EventOutcomeDescription").text = clean(message.description)
    for participant in message.participants:
        _add_participant(root, participant)
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=clean(source_id))
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server
    for thing in message.things:
        _add_thing(root, thing)
    return ET.tostring(root, encoding="unicode").encode()


def clean(text: str) -> str:
    """A peer's text as it is kept: one line, printable, of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:TEXT_LENGTH_MAX]


def _add_participant(root: ET.Element, participant: Participant) -> None:
    element = ET.SubElement(root, "ActiveParticipant", UserID=clean(participant.user_id))
    element.set("UserIsRequestor", str(participant.is_requestor).lower())
    if participant.ae_title:
        element.set("AlternativeUserID", f"AETITLES={clean(participant.ae_title)}")
    if participant.address:
        element.set("NetworkAccessPointID", clean(participant.address))
        element.set("NetworkAccessPointTypeCode", "2" if _is_ip(participant.address) else "1")
    if participant.role:
        _add_code(element, "RoleIDCode", participant.role)
    if participant.media:
        media = ET.SubElement(element, "MediaIdentifier")
        _add_code(media, "MediaType", participant.media)


def _add_thing(root: ET.Element, thing: Thing) -> None:
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=clean(thing.id),
        ParticipantObjectTypeCode=str(thing.type),
    )
    if thing.role:
        element.set("ParticipantObjectTypeCodeRole", str(thing.role))
    _add_code(element, "ParticipantObjectIDTypeCode", thing.id_type)
    if thing.query is not None:
        ET.SubElement(element, "ParticipantObjectQuery").text = _base64(thing.query)
    else:
        ET.SubElement(element, "ParticipantObjectName").text = clean(thing.name)
    for name, value in (thing.details or {}).items():
        ET.SubElement(element, "ParticipantObjectDetail", type=name, value=_base64(value))
    if thing.is_study:
        description = ET.SubElement(element, "ParticipantObjectDescription")
        for uid, count in sorted((thing.sop_classes or {}).items()):
            ET.SubElement(description, "SOPClass", UID=clean(uid), NumberOfInstances=str(count))


def _is_ip(address: str) -> bool:
    try:
        return bool(ip_address(address.partition("%")[0]))
    except ValueError:
        return False


def _add_code(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.code,
        "codeSystemName": code.system,
        "originalText": code.meaning,
    }
    ET.SubElement(parent, name, attributes)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
