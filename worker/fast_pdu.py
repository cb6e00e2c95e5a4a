"""C-STORE data sets go from the socket straight into their file, within pynetdicom's associations.

pynetdicom reads in pieces of 4096 bytes, copies each byte several times, runs its state machine
for every PDU, and both threads of an association look for work a thousand times a second and pass
each request and answer between them: half of a listener's CPU. It has no hook for that, so what
reaches inside it is in this module and nowhere else, and holds for one version. With another one
`install` is not to be called (`is_supported`).

Everything is still decided by pynetdicom: its state machine and its DIMSE provider see every PDU
except the fragments of a data set, of which they are told only that the last one has come. Its
storage service serves the request, in the thread that has received it.
"""

import contextlib
import errno
import os
import queue
import secrets
import select
import ssl
import struct
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import pynetdicom
from pynetdicom import dimse_messages
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

SUPPORTED_VERSION = "3.0.4"
BUFFER_BYTES = 256 << 10  # one for each association
OBJECT_BYTES_MAX = 2 << 30
ROOM_LOOK_BYTES = 16 << 20  # of an object, between two looks at the disk's free room
ASSOCIATE_BYTES_MAX = 256 << 10  # of a PDU that is no P-DATA-TF: 128 contexts need less
PIECES_MAX = 1024  # IOV_MAX: more of them no system takes at once
HELD_BYTES_MAX = 4 << 20  # of a message, but for the data set that goes into a file
WAITING_MESSAGES_MAX = 100  # no asynchronous operations are negotiated: one is the rule
PDU_TIMEOUT_S = 60.0  # from a PDU's first byte to its last
MESSAGE_TIMEOUT_S = 1800.0  # from a message's first PDU to its last
WAIT_S = 0.05  # how long a thread waits before it looks around

_PDU_TYPES = range(0x01, 0x08)
_P_DATA_TF = 0x04
_PDU_HEADER = struct.Struct(">BxL")  # PS3.8 9.3.1: type, length of what follows
_PDV_HEADER = struct.Struct(">LBB")  # PS3.8 9.3.5.1 and E.2: length, context ID, control header
_COMMAND, _LAST = 0b01, 0b10
# States of PS3.8 9.2.1 in which the next event is the peer's, or ours.
_AWAITING_PEER = {"Sta2", "Sta6"}
_AWAITING_OURS = {"Sta3", "Sta8"}
_OVER = {"Sta1", "Sta13"}


def is_supported() -> bool:
    return pynetdicom.__version__ == SUPPORTED_VERSION


class Activity(Protocol):
    """Who wants to know what the association does."""

    is_serving: bool

    def message_done(self) -> None: ...


def write_while(has_room: Callable[[], bool]) -> None:
    """Write data sets into files, in all of this process, as long as the disk has room for more."""
    patched: Any = dimse_messages
    patched.NamedTemporaryFile = partial(_DataSetFile, has_room)


def install(
    association: Association, *, maximum_pdu_bytes: int, acse_timeout_s: float, activity: Activity
) -> None:
    """Receive for this association, which has not started yet.

    A longer PDU aborts it, and so does one that is not whole in time: its request within
    `acse_timeout_s` from now, any other PDU within PDU_TIMEOUT_S, a message in MESSAGE_TIMEOUT_S;
    nor may more than WAITING_MESSAGES_MAX messages wait to be served.
    """
    receiver: Any = _Receiver(association, maximum_pdu_bytes, acse_timeout_s, activity)
    dul: Any = association.dul
    dul._read_pdu_data = receiver.read
    dul._is_transport_event = receiver.look
    dul._process_recv_primitive = receiver.send
    dul._run_loop_delay = 0  # `look` waits instead
    dimse: Any = association.dimse
    dimse.msg_queue = receiver.messages
    dimse.get_msg = receiver.next_message


class _InvalidPdu(Exception):
    """Of a type or length that there is not, longer than was agreed, or one of too many."""


class _TooSlow(Exception):
    """Not whole by its deadline."""


class _DataSetFile:
    """A data set's file in the temp folder, in the place of pynetdicom's NamedTemporaryFile.

    It raises nothing: an error would end the association. Once it cannot be made or written, or
    grows too large, it is lost, and what else comes is dropped. The handler of the request asks
    `is_lost`, and answers Out of Resources.
    """

    def __init__(self, has_room: Callable[[], bool], **_options: object) -> None:
        self.name = str(Path(tempfile.gettempdir()) / f"{secrets.token_hex(16)}.dcm")
        self._has_room = has_room
        self._written_bytes = self._look_at_bytes = 0
        self._raw: FileIO | None = None
        self.is_lost = False
        try:
            self._raw = FileIO(self.name, "xb", opener=partial(os.open, mode=0o600))
        except OSError:
            self.is_lost = True

    @property
    def file(self) -> "_DataSetFile":
        """What pynetdicom flushes."""
        return self

    def write(self, data: bytes) -> None:
        self.write_pieces([memoryview(data)])

    def write_pieces(self, pieces: Sequence[memoryview]) -> None:
        if self._raw is None:
            return
        if len(pieces) > PIECES_MAX:
            pieces = [memoryview(b"".join(pieces))]
        size = sum(len(piece) for piece in pieces)
        try:
            self._require_room_for(size)
            descriptor = self._raw.fileno()
            if (written := os.writev(descriptor, pieces)) < size:
                rest = memoryview(b"".join(pieces))[written:]
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except OSError:
            self.discard()

    def _require_room_for(self, size: int) -> None:
        if self._written_bytes >= self._look_at_bytes:
            self._look_at_bytes = self._written_bytes + ROOM_LOOK_BYTES
            if not self._has_room():
                raise OSError(errno.ENOSPC, "below the reserve")
        self._written_bytes += size
        if self._written_bytes > OBJECT_BYTES_MAX:
            raise OSError(errno.EFBIG, "object too large")

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(OSError):  # NFS: the handler has synced it, or it goes
                raw.close()

    def discard(self) -> None:
        """Close and remove it; what is written from now on is dropped."""
        self.is_lost = True
        self.close()
        with contextlib.suppress(OSError):
            Path(self.name).unlink()


def is_lost(request: C_STORE) -> bool:
    """Whether the data set of a request could not be written, though some of it may be left."""
    return getattr(request._dataset_file, "is_lost", False)


class _Messages(queue.Queue[Any]):
    """Messages for the association's thread; requests to store are kept apart from them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_store: deque[tuple[int, C_STORE]] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        context_id, message = item
        if isinstance(message, C_STORE):
            self.to_store.append((context_id, message))
        else:
            super().put(item, block, timeout)

    @property
    def count(self) -> int:
        return self.qsize() + len(self.to_store)


class _Receiver:
    """Stands in for four methods of one association's DUL and DIMSE providers."""

    def __init__(
        self,
        association: Association,
        maximum_pdu_bytes: int,
        acse_timeout_s: float,
        activity: Activity,
    ) -> None:
        self.messages = _Messages()
        self._association: Any = association
        self._dul: Any = association.dul
        self._dimse: Any = association.dimse
        self._maximum_pdu_bytes = maximum_pdu_bytes
        self._activity = activity
        self._associate_by = time.monotonic() + acse_timeout_s
        self._deadline = self._associate_by  # of what is being received
        self._message_began = 0.0
        self._held_bytes = 0  # of the message, in memory
        self._plain_look = self._dul._is_transport_event
        self._plain_send = self._dul._process_recv_primitive
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0  # what of the buffer is received and not yet used
        self._pieces: list[memoryview] = []  # of the buffer, to be written before it is filled anew
        self._answer_is_due = False

    def look(self) -> bool:
        """Wait a moment for what comes next (DULServiceProvider._is_transport_event)."""
        dul = self._dul
        if dul.event_queue.queue:  # what happened already comes first
            return False
        if self.messages.to_store and self._association.is_established:
            self._serve(*self.messages.to_store.popleft())
            self._answer_is_due = False
            return self.send()
        # The association's thread waits for messages only: wake it.
        if dul.to_user_queue.queue and self.messages.empty():
            self.messages.put((None, None))
        if self._start < self._end:
            self.read()
            return True
        state = dul.state_machine.current_state
        served = self._answer_is_due and self._dimse.message is None
        if state in _AWAITING_OURS or (state == "Sta6" and served):
            if self._wait_for_ours():
                self._answer_is_due = False
                return self.send()
        elif state in _AWAITING_PEER and dul.socket.socket is not None:
            self._is_readable(WAIT_S)
        else:
            time.sleep(0.001)
        return bool(self._plain_look())

    def send(self) -> bool:
        """Turn to what is to be sent (DULServiceProvider._process_recv_primitive)."""
        if self._dul.state_machine.current_state in _OVER:  # an answer that comes too late
            self._forget_file()
            self._dul.to_provider_queue.queue.clear()
            return False
        return bool(self._plain_send())

    def next_message(self, block: bool = False) -> Any:
        """The next DIMSE message, waiting a moment for it (DIMSEServiceProvider.get_msg)."""
        try:
            timeout_s = self._dimse.dimse_timeout if block else WAIT_S
            found = self.messages.get(timeout=timeout_s)
            if found[1] is not None:
                self._activity.message_done()
            return found
        except queue.Empty:
            return None, None

    def _serve(self, context_id: int, request: C_STORE) -> None:
        # An abort must not wait for this very thread, which is to send it.
        self._association.abort = self._association._abort_nonblocking
        self._activity.is_serving = True
        try:
            self._association._serve_request(request, context_id)
        finally:
            self._activity.is_serving = False
            self._activity.message_done()
            self._association.abort = self._association._abort_blocking

    def read(self) -> None:
        """Read a PDU, or as much of a data set as comes (DULServiceProvider._read_pdu_data)."""
        dul = self._dul
        if dul.state_machine.current_state == "Sta13":
            self._drain()
            return
        try:
            while (received := self._receive()) is None:
                dul._idle_timer.restart()
                if dul.to_provider_queue.queue or not self._is_readable(WAIT_S):
                    return
        except (_TooSlow, TimeoutError):
            self._give_up("Evt19")  # as an invalid PDU: it is aborted, and told so
        except (OSError, EOFError):
            self._give_up("Evt17")  # transport connection closed
        except Exception:  # whatever the decoder makes of rubbish
            self._give_up("Evt19")  # invalid PDU
        else:
            pdu, event = received
            dul._recv_pdu.put(pdu)
            dul.event_queue.put(event)

    def _give_up(self, event: str) -> None:
        self._forget_file()
        if self._dul.state_machine.current_state == "Sta2":  # who awaits the request: no more
            self._dul.to_user_queue.put(None)
        self._dul.event_queue.put(event)

    def _drain(self) -> None:
        """Aborted or rejected, nothing that comes means anything; only the end is awaited."""
        self._forget_file()
        self._deadline = time.monotonic() + 1.0
        try:
            self._fill()
            self._start = self._end = 0
        except (OSError, EOFError, _TooSlow):
            self._dul.event_queue.put("Evt17")

    def _receive(self) -> tuple[Any, str] | None:
        """One PDU and its event; None if there is nothing to tell of it."""
        self._set_deadline()
        header = self._take(_PDU_HEADER.size)
        pdu_type, length = _PDU_HEADER.unpack(header)
        if pdu_type not in _PDU_TYPES or length > self._maximum_pdu_bytes:
            raise _InvalidPdu
        if pdu_type != _P_DATA_TF:
            if length > ASSOCIATE_BYTES_MAX:
                raise _InvalidPdu
            self._discard()  # whatever it says, the rest of a data set is not what follows
            return self._dul._decode_pdu(header + self._take(length))  # type: ignore[no-any-return]
        if self.messages.count > WAITING_MESSAGES_MAX:
            raise _InvalidPdu
        self._answer_is_due = True
        if self._file is None or self._dul.state_machine.current_state != "Sta6":
            self._hold(length)
            return self._dul._decode_pdu(header + self._take(length))  # type: ignore[no-any-return]
        primitive: Any = P_DATA()
        primitive.presentation_data_value_list = self._values(length)
        if not primitive.presentation_data_value_list:
            return None
        self._flush()
        return P_DATA_TF(primitive), "Evt10"  # P-DATA-TF PDU received

    def _set_deadline(self) -> None:
        now = time.monotonic()
        state = self._dul.state_machine.current_state
        if self._dimse.message is None:
            self._message_began, self._held_bytes = now, 0
        if state == "Sta2":  # awaiting the request for an association
            self._deadline = self._associate_by
        else:
            self._deadline = min(now + PDU_TIMEOUT_S, self._message_began + MESSAGE_TIMEOUT_S)

    def _hold(self, size: int) -> None:
        """Count what pynetdicom keeps of a message in memory: commands, and small data sets."""
        self._held_bytes += size
        if self._held_bytes > HELD_BYTES_MAX:
            raise _InvalidPdu

    def _values(self, length: int) -> list[list[int | bytes]]:
        """Store the data set's fragments; return what is left to tell: the last one."""
        values: list[list[int | bytes]] = []
        while length > 0:
            pdv_length, context_id, control = _PDV_HEADER.unpack(self._take(_PDV_HEADER.size))
            size = pdv_length - 2
            length -= pdv_length + 4
            # Until its last fragment nothing else may come, nor after that in the same PDU: it
            # would be taken for a part of this data set.
            if size < 0 or length < 0 or values or control & _COMMAND:
                raise _InvalidPdu
            self._store(size)
            if control & _LAST:
                values.append([context_id, bytes([control])])
        return values

    def _store(self, size: int) -> None:
        while size > 0:
            if self._start == self._end:
                self._fill()
            end = min(self._end, self._start + size)
            self._pieces.append(self._buffer[self._start : end])
            size -= end - self._start
            self._start = end

    def _take(self, count: int) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            if self._start == self._end:
                self._fill()
            end = min(self._end, self._start + count - len(taken))
            taken += self._buffer[self._start : end]
            self._start = end
        return bytes(taken)

    def _fill(self) -> None:
        self._flush()
        sock = self._dul.socket.socket
        if sock is None:
            raise EOFError
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise _TooSlow
        send_timeout_s = sock.gettimeout()
        sock.settimeout(remaining_s)
        try:
            self._start, self._end = 0, sock.recv_into(self._buffer)
        finally:
            sock.settimeout(send_timeout_s)
        if self._end == 0:
            raise EOFError

    @property
    def _file(self) -> _DataSetFile | None:
        """Of the data set that is being received."""
        return getattr(self._dimse.message, "_data_set_file", None)

    def _flush(self) -> None:
        """Write what was received of the data set."""
        pieces, self._pieces = self._pieces, []
        if pieces and self._file is not None:
            self._file.write_pieces(pieces)

    def _forget_file(self) -> None:
        """Half a data set is of no use to anybody, and what follows it is not understood."""
        self._pieces = []
        self._start = self._end = 0
        self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _is_readable(self, timeout_s: float) -> bool:
        if self._start < self._end:
            return True
        sock = self._dul.socket.socket
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        try:
            return bool(select.select([sock], [], [], timeout_s)[0])
        except (OSError, ValueError, TypeError):  # closed: reading finds out
            return True

    def _wait_for_ours(self) -> bool:
        """Wait a moment for something to send: an answer, an abort."""
        ours = self._dul.to_provider_queue
        with ours.not_empty:
            return bool(ours.queue) or bool(ours.not_empty.wait(WAIT_S))
