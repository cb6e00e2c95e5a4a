"""The DICOM server: C-ECHO and C-STORE as SCP, on pynetdicom."""

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType

from dicom_io import commitment
from dicom_io.commitment import CommitmentReport
from dicom_io.contexts import STORAGE_COMMITMENT, listener_contexts
from dicom_io.errors import UnreadableDicom
from worker import fast_pdu, log
from worker.association_server import (
    NETWORK_TIMEOUT_S,
    AssociationHandler,
    AssociationServer,
    Policy,
    Refusal,
    connection_of,
)
from worker.connections import Connections
from worker.receive import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Origin

MAXIMUM_PDU_BYTES = 1 << 20  # 16 KiB, the usual default, costs half the speed
RECEIVE_BUFFER_BYTES = 4 << 20
WAITING_CONNECTIONS_MAX = 1024  # beyond it, a good sender's first packet is sent again after 1 s
REFUSALS_LOGGED_PER_S = 10
ACSE_TIMEOUT_S = 15
DIMSE_TIMEOUT_S = 60

_log = log.get("scp")
Store = Callable[[Path, Origin], int]
OnRefusal = Callable[[Refusal], None]
RecordCommitment = Callable[[CommitmentReport], bool]  # False: nobody asked for it
PROCESSING_FAILURE = 0x0110  # PS3.7 10.1.1.1.8
INVALID_ARGUMENT_VALUE = 0x0115
_COMMITMENTS = threading.BoundedSemaphore(8)  # reports that are recorded at once
_REJECTED = {  # PS3.8 9.3.4: source and reason of an A-ASSOCIATE-RJ
    (1, 3): "calling AE title not allowed",
    (1, 7): "called AE title is not ours",
    (2, 2): "protocol version not supported",
    (3, 2): "too many associations",
}


def bind_port(bind: str, port: int) -> socket.socket:
    """A listening socket, for one server or for several processes; OSError if it is taken."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before it listens: accepted sockets inherit it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        listening.bind((bind, port))
        listening.listen(WAITING_CONNECTIONS_MAX)
        listening.setblocking(False)  # another process may be quicker to accept
    except OSError:
        listening.close()
        raise
    return listening


def start_server(
    listening: socket.socket,
    *,
    store: Store,
    record_commitment: RecordCommitment,
    temp_folder: Path,
    ae_title: str,
    allowed_calling_ae_titles: tuple[str, ...] = (),
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] = (),
    tls: ssl.SSLContext | None = None,
    connections: Connections | None = None,
    on_refusal: OnRefusal | None = None,
    has_room: Callable[[], bool] = lambda: True,
) -> AssociationServer:
    """Accept associations in a thread of this process. The server closes the socket.

    connections: of all servers of this process. on_refusal: told of who was not let in.
    has_room: asked, of all of this process, while objects are written.
    """
    on_refusal = on_refusal or RefusalLog()
    # Data sets go to a file as they arrive, undecoded; the file must lie beside the spool's,
    # or its rename would be a copy. All of these are settings of the process.
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"  # those handlers print data sets at DEBUG
    tempfile.tempdir = str(temp_folder)

    ae = AE(ae_title=ae_title)
    ae.supported_contexts = listener_contexts()
    ae.require_called_aet = True
    ae.require_calling_aet = list(allowed_calling_ae_titles)
    ae.maximum_associations = 1 << 30  # `Connections` counts them
    ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
    ae.acse_timeout = ACSE_TIMEOUT_S
    ae.dimse_timeout = DIMSE_TIMEOUT_S
    ae.network_timeout = NETWORK_TIMEOUT_S
    handlers: list[EventHandlerType] = [
        (evt.EVT_REQUESTED, _offer_commitment_to_scps),
        (evt.EVT_REQUESTED, _reject_when_full),
        (evt.EVT_REJECTED, _note_rejected, [on_refusal]),
        (evt.EVT_C_STORE, _handle_store, [store]),
        (evt.EVT_N_EVENT_REPORT, _handle_commitment, [record_commitment]),
    ]
    if fast_pdu.is_supported():
        fast_pdu.write_while(has_room)
    else:
        _log.warning(
            "pynetdicom is not %s: receiving at half the speed, without a limit on PDU length",
            fast_pdu.SUPPORTED_VERSION,
        )
    policy = Policy(
        connections=connections or Connections(),
        allowed_ips=allowed_ips,
        maximum_pdu_bytes=MAXIMUM_PDU_BYTES,
        acse_timeout_s=ACSE_TIMEOUT_S,
        on_refusal=on_refusal,
    )
    make = partial(AssociationServer, listening=listening, policy=policy, tls=tls)
    server = ae.make_server(
        listening.getsockname(),
        evt_handlers=handlers,
        contexts=_Shared(ae.supported_contexts),
        server_class=cast(Any, make),
        request_handler=AssociationHandler,
    )
    assert isinstance(server, AssociationServer)
    server.start()
    return server


class RefusalLog:
    """Logs who was not let in, so many in a second: nobody fills a disk by knocking."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._count = self._left_out = 0

    def __call__(self, refusal: Refusal) -> None:
        second = int(time.monotonic())
        with self._lock:
            if second != self._second:
                left_out, self._left_out = self._left_out, 0
                self._second, self._count = second, 0
                if left_out:
                    _log.warning("%s more refusals not logged", left_out)
            self._count += 1
            if self._count > REFUSALS_LOGGED_PER_S:
                self._left_out += 1
                return
        _log.warning("refused: %s", refusal.reason, extra={"peer_address": refusal.peer_address})


class _Shared(list[Any]):
    """Presentation contexts, which pynetdicom copies deeply for each association but only reads."""

    def __deepcopy__(self, _memo: object) -> list[Any]:
        return list(self)


def _reject_when_full(event: Event) -> None:
    """PS3.8 9.3.4: rejected-transient, presentation related, local-limit-exceeded."""
    association = event.assoc
    if connection_of(association).is_over:
        association.acse.send_reject(0x02, 0x03, 0x02)
        evt.trigger(association, evt.EVT_REJECTED, {})
        association.kill()


def _note_rejected(event: Event, on_refusal: OnRefusal) -> None:
    association = event.assoc
    answer = cast(Any, association.acceptor.primitive)
    reason = _REJECTED.get((answer.result_source, answer.diagnostic), "association rejected")
    on_refusal(
        Refusal(
            peer_address=str(association.requestor.address),
            calling_ae_title=str(association.requestor.ae_title).strip(),
            reason=reason,
        )
    )


def _offer_commitment_to_scps(event: Event) -> None:
    """Storage commitment is for who reports on what we asked; we never commit ourselves."""
    assoc = event.assoc
    role = assoc.requestor.role_selection.get(UID(STORAGE_COMMITMENT))
    if role is None or not role.scp_role:
        assoc.acceptor.supported_contexts = [
            context
            for context in assoc.acceptor.supported_contexts
            if context.abstract_syntax != STORAGE_COMMITMENT
        ]


def _handle_commitment(event: Event, record: RecordCommitment) -> tuple[int, Dataset | None]:
    if not _COMMITMENTS.acquire(blocking=False):  # each has a thread of pynetdicom's
        return PROCESSING_FAILURE, None
    try:
        known = record(commitment.read_report(event.event_information))
    except UnreadableDicom as error:
        _log.warning("commitment report not read: %s", error)
        return INVALID_ARGUMENT_VALUE, None
    except Exception as error:  # the database may be down; we ask again
        _log.error("commitment report not recorded: %s", log.where(error))
        return PROCESSING_FAILURE, None
    finally:
        _COMMITMENTS.release()
    return (0x0000 if known else INVALID_ARGUMENT_VALUE), None


def _handle_store(event: Event, store: Store) -> int:
    request = cast(C_STORE, event.request)
    origin = Origin(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
        peer_address=str(event.assoc.requestor.address),
    )
    path = event.dataset_path
    if path is None:  # a request without a data set
        return CANNOT_UNDERSTAND
    extra = {"sop_instance_uid": origin.sop_instance_uid}
    try:
        if fast_pdu.is_lost(request):
            return OUT_OF_RESOURCES
        return store(path, origin)
    except OSError as error:
        _log.error("store failed: %s", error.strerror, extra=extra)
        return OUT_OF_RESOURCES
    except Exception as error:  # the association lives on, whatever one object does
        _log.error("store failed: %s", log.where(error), extra=extra)
        return CANNOT_UNDERSTAND
    finally:
        with contextlib.suppress(OSError):  # an erring disk's answer is another one
            path.unlink()  # gone already, unless the store failed
