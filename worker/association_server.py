"""The server beneath the SCP: one listening socket, TLS or not, each connection in its threads.

The accepting thread only accepts. Whatever a peer may drag out, from the TLS handshake on, happens
in threads of that connection and has a deadline.
"""

import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import MSG_PEEK, socket
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_io.tls import why_refused
from worker import fast_pdu, log
from worker.connections import PROBE, Connection, Connections

NETWORK_TIMEOUT_S = 60  # without a byte, reading or writing
HANDSHAKE_TIMEOUT_S = 10  # from the first byte of TLS to the last
PROBE_TIMEOUT_S = 1.0  # for the first words of who calls from this machine
DRAIN_S = 10.0  # for associations to end by themselves, those of all ports together
ABORT_S = 1.0  # for what is then aborted to say so

_log = log.get("scp")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A peer that was not let in, and why; in words of ours, but for the AE titles."""

    peer_address: str
    reason: str
    calling_ae_title: str = ""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a connection is held to, on whichever port it comes."""

    connections: Connections
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]
    maximum_pdu_bytes: int
    acse_timeout_s: float
    on_refusal: Callable[[Refusal], None]

    def allows(self, address: str) -> bool:
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped:  # bound to ::, called by IPv4
            found = found.ipv4_mapped
        return not self.allowed_ips or any(found in network for network in self.allowed_ips)


class AssociationHandler(RequestHandler):
    """One connection, in a thread that lasts as long as it does."""

    server: "AssociationServer"

    def handle(self) -> None:
        policy, address = self.server.policy, str(self.client_address[0])
        if not policy.allows(address):
            if not self._is_probe():
                policy.on_refusal(Refusal(peer_address=address, reason="address not allowed"))
            return
        with policy.connections.entered(cast(socket, self.request), address) as connection:
            if connection is None:
                policy.on_refusal(Refusal(peer_address=address, reason="too many connections"))
            elif self._is_secured(connection, address):
                self._associate(connection)

    def finish(self) -> None:
        self.server.shutdown_request(self.request)

    def _is_probe(self) -> bool:
        """Whether this machine asks itself if we live (`worker.probe`): nobody to be told of."""
        raw = cast(socket, self.request)
        raw.settimeout(PROBE_TIMEOUT_S)
        try:
            return self._is_from_here() and raw.recv(len(PROBE), MSG_PEEK) == PROBE
        except OSError:  # silent, or gone
            return False

    def _is_from_here(self) -> bool:
        raw = cast(socket, self.request)
        return bool(raw.getpeername()[0] == raw.getsockname()[0])

    def _is_secured(self, connection: Connection, address: str) -> bool:
        """Shake hands, on a port that speaks TLS."""
        context = self.server.tls
        if context is None:
            return True
        raw = cast(socket, self.request)
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        try:
            words = _first_words(raw)
            if not words or (words == PROBE and self._is_from_here()):
                return False  # somebody looked whether the port is open, or a probe
            raw.settimeout(max(deadline - time.monotonic(), 0.001))  # of the whole handshake
            secured = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
            self.request = connection.socket = secured
            secured.do_handshake()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = why_refused(error)
            self.server.policy.on_refusal(Refusal(peer_address=address, reason=reason))
            return False
        secured.settimeout(NETWORK_TIMEOUT_S)
        return True

    def _associate(self, connection: Connection) -> None:
        association = self._create_association()
        cast(Any, association).connection = connection
        association.dul.daemon = True  # the process ends without it
        if fast_pdu.is_supported():
            fast_pdu.install(
                association,
                maximum_pdu_bytes=self.server.policy.maximum_pdu_bytes,
                acse_timeout_s=self.server.policy.acse_timeout_s,
                activity=connection,
            )
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()


def _first_words(sock: socket) -> bytes:
    """As long as a probe's, and still to be read; none of who hangs up. Raises TimeoutError."""
    sock.settimeout(HANDSHAKE_TIMEOUT_S)
    try:
        return sock.recv(len(PROBE), MSG_PEEK)
    except ConnectionError:
        return b""


def connection_of(association: Association) -> Connection:
    return cast(Connection, cast(Any, association).connection)


class AssociationServer(ThreadedAssociationServer):
    """On a socket that listens already; accepted sockets get a deadline of their own."""

    daemon_threads = True

    def __init__(
        self,
        *args: Any,
        listening: socket,
        policy: Policy,
        tls: ssl.SSLContext | None,
        **kwargs: Any,
    ) -> None:
        self._listening = listening
        self.policy = policy
        self.tls = tls  # not pynetdicom's ssl_context: it would shake hands while accepting
        super().__init__(*args, **kwargs)

    def start(self) -> None:
        """Accept associations in a thread of this process."""
        threading.Thread(target=self.serve_forever, name="scp", daemon=True).start()

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

    def stop_accepting(self) -> None:
        BaseServer.shutdown(self)
        self.server_close()

    def shutdown(self) -> None:
        drain([self])

    def get_request(self) -> tuple[socket, tuple[str, int]]:
        client, address = super().get_request()
        # Without it, half a PDU and then silence outlives every timeout of the AE.
        client.settimeout(NETWORK_TIMEOUT_S)
        return client, address

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Log what went wrong with a connection by type and place, not by its text."""
        if error := sys.exc_info()[1]:
            _log.error("connection failed: %s", log.where(error))


def drain(servers: Sequence[AssociationServer]) -> None:
    """Take no more connections, let associations end by themselves, then abort the rest.

    However many ports and associations there are: it takes DRAIN_S and ABORT_S at most.
    """
    deadline = time.monotonic() + DRAIN_S
    for server in servers:
        server.stop_accepting()
    _wait(deadline, lambda: not _active(servers))
    aborted = [association for association in _active(servers) if association.is_established]
    for association in aborted:
        association.abort(block=False)  # else it is not sent, or the peer is waited for
    _wait(max(deadline, time.monotonic()) + ABORT_S, lambda: all(map(_has_said_it, aborted)))
    for association in _active(servers):
        connection_of(association).drop()


def _active(servers: Sequence[AssociationServer]) -> list[Association]:
    return [association for server in servers for association in server.active_associations]


def _has_said_it(association: Association) -> bool:
    """Whether A-ABORT is sent, which another thread does."""
    return association.dul.state_machine.current_state in ("Sta1", "Sta13")  # PS3.8 9.2.2


def _wait(deadline: float, is_over: Callable[[], bool]) -> None:
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.05)
