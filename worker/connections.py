"""The connections to one listener process: how many at once, and who makes room.

A peer that connects and says nothing, stops in the middle of a PDU, or dribbles takes a place
like any other. When all are taken, the one that has gone longest without a whole message makes
room, those that have not even associated first. So whoever works is let in, whatever the others
do, and no time-out has to be short for that.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

CONNECTIONS_MAX = 100  # in each process
OVERFLOW_MAX = 20  # more that are still told why they are refused
SILENT_MIN_S = 1.0  # an association that had a message since then keeps its place


class Connection:
    """One connection, from its acceptance until the threads of its association have ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.is_established = False
        self.is_serving = False
        self.is_over = False  # beyond the limit: to be rejected
        self.done_at = time.monotonic()  # the last whole message, or the beginning

    def message_done(self) -> None:
        self.done_at = time.monotonic()

    def drop(self) -> None:
        """Wake whoever waits for the peer, who then finds the connection ended."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: it would take the TLS layer from under its reader.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class Connections:
    """Every connection of a process, over all its ports. Safe to use from many threads."""

    def __init__(self, maximum: int = CONNECTIONS_MAX, overflow: int = OVERFLOW_MAX) -> None:
        self._maximum = maximum
        self._overflow = overflow
        self._open: list[Connection] = []
        self._lock = threading.Lock()
        self.evicted_count = 0

    @contextlib.contextmanager
    def entered(self, sock: socket.socket) -> Iterator[Connection | None]:
        """A place for this connection while it lasts; None where there is none."""
        connection = self._enter(sock)
        try:
            yield connection
        finally:
            with self._lock:
                if connection in self._open:  # not evicted
                    self._open.remove(connection)

    def _enter(self, sock: socket.socket) -> Connection | None:
        connection = Connection(sock)
        with self._lock:
            if len(self._open) >= self._maximum and (victim := self._silent_longest()):
                self._open.remove(victim)
                self.evicted_count += 1
                victim.drop()
            if len(self._open) >= self._maximum + self._overflow:
                return None
            connection.is_over = len(self._open) >= self._maximum
            self._open.append(connection)
        return connection

    def _silent_longest(self) -> Connection | None:
        before = time.monotonic() - SILENT_MIN_S
        able = [
            it
            for it in self._open
            if not it.is_serving and (not it.is_established or it.done_at < before)
        ]
        return min(able, key=lambda it: (it.is_established, it.done_at), default=None)
