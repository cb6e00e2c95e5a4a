"""A report as HL7 v2.5.1 ORU^R01, and the message that withdraws one.

Sources: HL7 v2.5.1 chapters 2 (control), 3 (PID) and 7 (OBR, OBX); IHE RAD TF-2 for the study's
UID as OBX 113014. What stands for the probability are the codes of the SR (docs/SR.md).
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Group, Message, Segment
from hl7apy.parser import parse_message
from pydicom.sr.coding import Code

from dicom_io.sr_content import BAND, CERTAINTY, CONCLUSION, PNEUMONIA, PRESENCE, RESEARCH_STATEMENT
from worker.messages.address import MllpDestination
from worker.messages.content import Patient, Told

VERSION = "2.5.1"
PRELIMINARY, CORRECTED = "P", "C"  # table 0123 (OBR-25), table 0085 (OBX-11)
POSTED_AS_WRONG = "W"  # table 0085
SERVICE = ("CXR-AI", "Chest radiograph analysis by software", "99CXRWORKER")
_STUDY = ("113014", "DICOM Study", "DCM")
_REPORT = ("SOPInstanceUID", "SOP Instance UID of the report", "99CXRWORKER")
_ALGORITHM_NAME = ("111001", "Algorithm Name", "DCM")
_ALGORITHM_VERSION = ("111003", "Algorithm Version", "DCM")
_ALGORITHM_PARAMETERS = ("111002", "Algorithm Parameters", "DCM")
_CHARSETS = {"utf-8": "UNICODE UTF-8", "latin-1": "8859/1", "ascii": "ASCII"}  # table 0211
_ABNORMAL = {"positive": "A", "negative": "N"}  # table 0078; to be reviewed: neither
_SEXES = {"M", "F", "O"}  # table 0001 and PS3.3 C.7.1.1
_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
_CONTROL_ID_LENGTH = 20  # MSH-10 of 2.5.1


def oru(told: Told, address: MllpDestination, uid: str) -> bytes:
    """Return the message as it is sent, without MLLP's frame. The same input: the same bytes.

    uid: of this message; MSH-10 follows from it, so that a receiver knows it when it comes again.
    """
    message = Message("ORU_R01", version=VERSION, validation_level=VALIDATION_LEVEL.TOLERANT)
    status = CORRECTED if told.is_correction else PRELIMINARY
    _msh(message, told.created_at, address, uid)
    result = message.add_group("ORU_R01_PATIENT_RESULT")
    _fill(result.add_group("ORU_R01_PATIENT").add_segment("PID"), _pid(told.patient, address))
    order = result.add_group("ORU_R01_ORDER_OBSERVATION")
    _fill(order.add_segment("OBR"), _obr(told, status))
    _fill(order.add_segment("NTE"), {1: "1", 3: escape(RESEARCH_STATEMENT)})
    for number, fields in enumerate(_observations(told), start=1):
        common = {1: str(number), 11: status, 14: _time(told.created_at)}
        _fill(_observation(order), common | fields)
    return _encoded(message, address)


def withdrawal(sent: bytes, address: MllpDestination, uid: str, now: datetime) -> bytes:
    """The message that was sent, said once more with every result posted as wrong (OBX-11 W)."""
    text = sent.decode(_character_set_of(sent))
    message = parse_message(text, validation_level=VALIDATION_LEVEL.TOLERANT)
    _msh(message, now, address, uid)
    order = message.ORU_R01_PATIENT_RESULT.ORU_R01_ORDER_OBSERVATION
    _fill(order.OBR, {22: _time(now), 25: CORRECTED})
    for observation in order.ORU_R01_OBSERVATION:
        _fill(observation.OBX, {11: POSTED_AS_WRONG})
    return _encoded(message, address)


def _character_set_of(message: bytes) -> str:
    """As its MSH-18 says: the settings may have changed since it was sent."""
    named = message.split(b"\r")[0].split(b"|")[17].decode()
    return next(name for name, said in _CHARSETS.items() if said == named)


def control_id(uid: str) -> str:
    """MSH-10: 20 letters and digits (100 bits) that follow from the message's UID."""
    return base64.b32encode(hashlib.sha256(uid.encode()).digest()).decode()[:_CONTROL_ID_LENGTH]


def escape(text: str) -> str:
    """A value that cannot be taken for anything else (2.7); control characters become spaces."""
    plain = "".join(char if char.isprintable() else " " for char in text).strip()
    return "".join(_ESCAPES.get(char, char) for char in plain)


def _msh(message: Message, now: datetime, address: MllpDestination, uid: str) -> None:
    _fill(
        message.msh,
        {
            3: escape(address.sending_application),
            4: escape(address.sending_facility),
            5: escape(address.receiving_application),
            6: escape(address.receiving_facility),
            7: _time(now),
            9: "ORU^R01^ORU_R01",
            10: control_id(uid),
            11: address.processing_id,
            12: VERSION,
            18: _CHARSETS[address.character_set],
        },
    )


def _pid(patient: Patient, address: MllpDestination) -> dict[int, str]:
    fields = {1: "1"}
    if "id" in address.patient and patient.id:
        authority = patient.issuer or address.assigning_authority
        fields[3] = _joined(patient.id, "", "", authority, "PI")
    if "name" in address.patient and patient.name:
        family, given, middle, prefix, suffix = (*patient.name, *[""] * 5)[:5]
        fields[5] = _joined(family, given, middle, suffix, prefix)
    if "birth_date" in address.patient and patient.birth_date is not None:
        fields[7] = f"{patient.birth_date:%Y%m%d}"
    if "sex" in address.patient and patient.sex:
        fields[8] = patient.sex if patient.sex in _SEXES else "U"
    return fields


def _obr(told: Told, status: str) -> dict[int, str]:
    accession = escape(told.accession_number or "")
    return {
        1: "1",
        2: escape(told.placer_order_number or ""),
        3: accession,
        4: _joined(*SERVICE),
        7: f"{told.study_date:%Y%m%d}" if told.study_date else "",
        18: accession,  # where IHE's order filler has it
        22: _time(told.created_at),
        24: "RAD",
        25: status,
    }


def _observations(told: Told) -> Iterator[dict[int, str]]:
    yield {2: "HD", 3: _joined(*_STUDY), 5: told.study_instance_uid}
    yield {2: "HD", 3: _joined(*_REPORT), 5: told.sr_sop_instance_uid}
    if told.probability is not None and told.band is not None:
        yield {
            2: "NM",
            3: _coded(CERTAINTY),
            5: f"{told.probability * 100:.1f}",
            6: _joined("%", "Percent", "UCUM"),
            8: _ABNORMAL.get(told.band, ""),
        }
        yield {2: "CWE", 3: _coded(PNEUMONIA), 5: _coded(PRESENCE[told.band])}
        value = _joined(told.band, told.band.capitalize(), "99CXRWORKER")
        yield {2: "CWE", 3: _coded(BAND), 5: value, 8: _ABNORMAL.get(told.band, "")}
    yield {2: "TX", 3: _coded(CONCLUSION), 5: escape(told.conclusion)}
    yield {2: "ST", 3: _joined(*_ALGORITHM_NAME), 5: escape(told.model_name)}
    yield {2: "ST", 3: _joined(*_ALGORITHM_VERSION), 5: escape(told.model_version)}
    parameters = f"weights sha256: {told.weights_sha256}"
    yield {2: "ST", 3: _joined(*_ALGORITHM_PARAMETERS), 5: escape(parameters)}


def _coded(code: Code) -> str:
    return _joined(code.value, code.meaning, code.scheme_designator)


def _joined(*components: str) -> str:
    return "^".join(escape(part) for part in components).rstrip("^")


def _time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S%z")


def _observation(order: Group) -> Segment:
    return order.add_group("ORU_R01_OBSERVATION").add_segment("OBX")


def _fill(segment: Segment, fields: Mapping[int, str]) -> None:
    for number, value in fields.items():
        if value:
            setattr(segment, f"{segment.name.lower()}_{number}", value)


def _encoded(message: Message, address: MllpDestination) -> bytes:
    """Characters that the destination's set does not have become question marks."""
    text: str = message.to_er7(trailing_children=False) + "\r"
    return text.encode(address.character_set, errors="replace")
