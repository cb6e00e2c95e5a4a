"""Send HL7 v2 messages over MLLP, and read what the receiver acknowledges.

Sources: HL7 v2.5.1 2.9.2 (original acknowledgement mode), tables 0008 and 0357; MLLP Release 1.
Our own socket: the libraries' clients wait for ever, and take the first bytes for an answer.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dicom_io.errors import DestinationUnavailable
from dicom_io.scu import SendObject, SendResult
from worker.messages.address import MllpDestination
from worker.messages.hl7 import control_id

START, END = b"\x0b", b"\x1c\r"
ANSWER_BYTES_MAX = 64 << 10
CONNECT_WITHIN_S = 10.0
ANSWER_WITHIN_S = 30.0  # all of it, however it drips
_ACCEPTED, _ERROR, _REJECTED = {"AA", "CA"}, {"AE", "CE"}, {"AR", "CR"}
# Table 0357: message type, event, processing id or version that the receiver does not know.
_NEVER = {"200", "201", "202", "203"}


@dataclass(frozen=True, kw_only=True)
class Acknowledgement:
    """code: MSA-1. control_id: of the message that is answered, MSA-2. error_code: ERR-3 or ''.

    Its free text (MSA-3, ERR-7, ERR-8) is not kept: it may quote the patient.
    """

    code: str
    control_id: str
    error_code: str

    @classmethod
    def parse(cls, answer: bytes) -> "Acknowledgement":
        """Read what matters of any version's ACK; ValueError where it is none."""
        segments = answer.decode("latin-1").replace("\n", "\r").split("\r")
        separator = segments[0][3:4]
        if not segments[0].startswith("MSH") or not separator or separator.isalnum():
            raise ValueError("no HL7 message")
        rows = {row[0]: row for row in (it.split(separator) for it in segments[1:])}
        msa, err = rows.get("MSA", []), rows.get("ERR", [])
        if len(msa) < 3:  # noqa: PLR2004
            raise ValueError("no acknowledgement in the answer")
        coded = err[3] if len(err) > 3 else ""  # noqa: PLR2004
        code = coded.partition(segments[0][4:5] or "^")[0].strip()
        return cls(
            code=msa[1].strip().upper(),
            control_id=msa[2].strip(),
            error_code=code if code.isdecimal() and len(code) <= 3 else "",  # noqa: PLR2004
        )


class MllpPeer:
    """A receiver over one connection. After anything unexpected that is not used any more."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002
        return True

    def store(self, item: SendObject) -> SendResult:
        """Send one message and wait for its acknowledgement; raises DestinationUnavailable.

        AE: the message is at fault, and would be the next time too. AR: the receiver cannot, for
        reasons of its own that may pass, unless it says that it never takes such messages.
        """
        assert isinstance(item.payload, bytes)
        try:
            self._connection.settimeout(ANSWER_WITHIN_S)
            self._connection.sendall(START + item.payload + END)
            ack = Acknowledgement.parse(self._answer())
        except TimeoutError as error:
            raise DestinationUnavailable("no acknowledgement in time") from error
        except OSError as error:
            said = type(error).__name__
            raise DestinationUnavailable(f"the connection broke ({said})") from error
        except ValueError as error:
            raise DestinationUnavailable(f"answers with {error}") from error
        return _result(item.sop_instance_uid, ack)

    def _answer(self) -> bytes:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        held = bytearray()
        while not held.endswith(END):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            piece = self._connection.recv(4096)
            if not piece:
                raise ConnectionResetError("closed before its acknowledgement was complete")
            held += piece
            if len(held) > ANSWER_BYTES_MAX:
                raise ValueError("more than an acknowledgement")
        if not held.startswith(START) or END in held[:-2]:  # two answers to one message
            raise ValueError("something that is no single MLLP block")
        return bytes(held[1:-2])


@contextmanager
def storing(destination: MllpDestination) -> Iterator[MllpPeer]:
    """Hold a connection for some messages; raises DestinationUnavailable."""
    with _connected(destination) as connection:
        yield MllpPeer(connection)


def probe(destination: MllpDestination) -> str:
    """Connect, and no more: there is no HL7 message that asks for nothing."""
    with _connected(destination):
        return "accepts connections" if destination.tls is None else "accepts TLS connections"


@contextmanager
def _connected(destination: MllpDestination) -> Iterator[socket.socket]:
    try:
        address = (destination.host, destination.port)
        connection = socket.create_connection(address, CONNECT_WITHIN_S)
    except OSError as error:
        raise DestinationUnavailable("cannot connect") from error
    with connection:
        if destination.tls is None:
            yield connection
            return
        try:
            context = destination.tls.client_context()
            encrypted = context.wrap_socket(connection, server_hostname=destination.host)
        except OSError as error:  # ssl.SSLError is one
            said = "TLS failed: its certificate is not trusted, or ours or its name is wrong"
            raise DestinationUnavailable(f"{said} ({type(error).__name__})") from error
        with encrypted:
            yield encrypted


def _result(uid: str, ack: Acknowledgement) -> SendResult:
    said = f"acknowledged with {ack.code}"
    if ack.error_code:
        said += f", error {ack.error_code}"
    if ack.control_id != control_id(uid):
        raise DestinationUnavailable("acknowledges another message")
    if ack.code in _ACCEPTED:
        return SendResult(sop_instance_uid=uid, status=None, error=None)
    if ack.code in _ERROR or (ack.code in _REJECTED and ack.error_code in _NEVER):
        return SendResult(sop_instance_uid=uid, status=None, error=said, refused=True, final=True)
    if ack.code in _REJECTED:
        return SendResult(sop_instance_uid=uid, status=None, error=said)
    raise DestinationUnavailable("answers with an unknown acknowledgement code")
