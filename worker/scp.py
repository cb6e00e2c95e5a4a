"""The DICOM server: C-ECHO and C-STORE as SCP, on pynetdicom."""

import socket
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from socketserver import BaseServer
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_io import commitment
from dicom_io.commitment import CommitmentReport
from dicom_io.contexts import STORAGE_COMMITMENT, listener_contexts
from dicom_io.errors import UnreadableDicom
from worker import fast_pdu, log
from worker.receive import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Origin

MAXIMUM_PDU_BYTES = 1 << 20  # 16 KiB, the usual default, costs half the speed
RECEIVE_BUFFER_BYTES = 4 << 20
WAITING_CONNECTIONS_MAX = 64
ASSOCIATIONS_MAX = 100  # in each process
ACSE_TIMEOUT_S = 15
DIMSE_TIMEOUT_S = 60
NETWORK_TIMEOUT_S = 60
DRAIN_S = 10

_log = log.get("scp")
Store = Callable[[Path, Origin], int]
RecordCommitment = Callable[[CommitmentReport], bool]  # False: nobody asked for it
PROCESSING_FAILURE = 0x0110  # PS3.7 10.1.1.1.8
INVALID_ARGUMENT_VALUE = 0x0115


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
) -> ThreadedAssociationServer:
    """Accept associations in a thread of this process. The server closes the socket."""
    # Data sets go to a file as they arrive, undecoded; the file must lie beside the spool's,
    # or its rename would be a copy. Both are settings of the process.
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"  # those handlers print data sets at DEBUG
    tempfile.tempdir = str(temp_folder)

    ae = AE(ae_title=ae_title)
    ae.supported_contexts = listener_contexts()
    ae.require_called_aet = True
    ae.require_calling_aet = list(allowed_calling_ae_titles)
    ae.maximum_associations = ASSOCIATIONS_MAX
    ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
    ae.acse_timeout = ACSE_TIMEOUT_S
    ae.dimse_timeout = DIMSE_TIMEOUT_S
    ae.network_timeout = NETWORK_TIMEOUT_S
    handlers: list[EventHandlerType] = [
        (evt.EVT_CONN_OPEN, _refuse_strangers, [allowed_ips]),
        (evt.EVT_REQUESTED, _offer_commitment_to_scps),
        (evt.EVT_C_STORE, _handle_store, [store]),
        (evt.EVT_N_EVENT_REPORT, _handle_commitment, [record_commitment]),
    ]
    if not fast_pdu.is_supported():
        _log.warning(
            "pynetdicom is not %s: receiving at half the speed, without a limit on PDU length",
            fast_pdu.SUPPORTED_VERSION,
        )
    server = ae.make_server(
        listening.getsockname(),
        evt_handlers=handlers,
        contexts=_Shared(ae.supported_contexts),
        server_class=cast(Any, partial(_Server, listening=listening)),
        request_handler=_Handler,
    )
    threading.Thread(target=server.serve_forever, name="scp", daemon=True).start()
    return server


class _Shared(list[Any]):
    """Presentation contexts, which pynetdicom copies deeply for each association but only reads."""

    def __deepcopy__(self, _memo: object) -> list[Any]:
        return list(self)


class _Handler(RequestHandler):
    def _create_association(self) -> Association:
        association = super()._create_association()
        if fast_pdu.is_supported():
            fast_pdu.install(association, maximum_pdu_bytes=MAXIMUM_PDU_BYTES)
        return association


class _Server(ThreadedAssociationServer):
    """On a socket that listens already; accepted sockets get a deadline of their own."""

    def __init__(self, *args: Any, listening: socket.socket, **kwargs: Any) -> None:
        self._listening = listening
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        assert self.socket is not None  # socketserver has just made it
        self.socket.close()
        self.socket = self._listening
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """It listens already."""

    def server_close(self) -> None:
        """Close our copy only: other processes may go on with theirs."""
        assert self.socket is not None
        self.socket.close()

    def shutdown(self) -> None:
        """Take no more connections, let associations end by themselves, then abort the rest."""
        BaseServer.shutdown(self)
        self.server_close()
        deadline = time.monotonic() + DRAIN_S
        while (active := self.active_associations) and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in active:
            association.abort()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        client, address = super().get_request()
        # Without it, half a PDU and then silence outlives every timeout of the AE.
        client.settimeout(NETWORK_TIMEOUT_S)
        return client, address


def _refuse_strangers(event: Event, allowed: tuple[IPv4Network | IPv6Network, ...]) -> None:
    address = ip_address(event.address[0])  # type: ignore[attr-defined]  # set for this event
    if allowed and not any(address in network for network in allowed):
        _log.warning("connection refused: address not in CXR_ALLOWED_IPS")
        event.assoc.abort()


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
    try:
        known = record(commitment.read_report(event.event_information))
    except UnreadableDicom as error:
        _log.warning("commitment report not read: %s", error)
        return INVALID_ARGUMENT_VALUE, None
    except Exception as error:  # the database may be down; we ask again
        _log.error("commitment report not recorded: %s", log.where(error))
        return PROCESSING_FAILURE, None
    return (0x0000 if known else INVALID_ARGUMENT_VALUE), None


def _handle_store(event: Event, store: Store) -> int:
    request = cast(C_STORE, event.request)
    origin = Origin(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
    )
    path = event.dataset_path
    if path is None:  # a request without a data set
        return CANNOT_UNDERSTAND
    extra = {"sop_instance_uid": origin.sop_instance_uid}
    try:
        return store(path, origin)
    except OSError as error:
        _log.error("store failed: %s", error.strerror, extra=extra)
        return OUT_OF_RESOURCES
    except Exception as error:  # the association lives on, whatever one object does
        _log.error("store failed: %s", log.where(error), extra=extra)
        return CANNOT_UNDERSTAND
    finally:
        path.unlink(missing_ok=True)  # gone already, unless the store failed
