"""PDUs of the DICOM upper layer as bytes, for peers that do not keep to it."""

import struct

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)

from tests.support import dicom

ACCEPTED, REJECTED, ABORTED = b"\x02", b"\x03", b"\x07"  # first byte of the answer, PS3.8 9.3
P_DATA_TF = 0x04


def associate_request(calling: str = "SENDER", called: str = "CXR_WORKER") -> bytes:
    """A good A-ASSOCIATE-RQ, for CR."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(dicom.CR, "1.2.840.10008.1.2.1")
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3.4"
    primitive.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    encoded: bytes = pdu.encode()
    return encoded


def header(pdu_type: int, length: int) -> bytes:
    """PS3.8 9.3.1: the type, and how much follows."""
    return struct.pack(">BxL", pdu_type, length)
