"""The connections to one listener process: how many at once, and who makes room.

A peer that connects and says nothing, stops in the middle of a PDU, or dribbles takes a place
like any other. When all are taken, the connection that has gone longest without a whole message
makes room: one of the address that has most of them, for a newcomer that has fewer; else one that
has been silent for a while, of the newcomer's address or of one that has as many. No address takes
a place from one that has fewer, so whoever works is let in and stays whatever others do, and no
time-out has to be short for that.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

PROBE = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])  # all that a probe of ours says: A-ABORT, PS3.8 9.3.8
CONNECTIONS_MAX = 100  # in each process
OVERFLOW_MAX = 20  # more that are still told why they are refused
SILENT_MIN_S = 1.0  # who had a message since then makes room only for an address with fewer


class Connection:
    """One connection, from its acceptance until the threads of its association have ended."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.socket = sock
        self.address = address
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
    def entered(self, sock: socket.socket, address: str) -> Iterator[Connection | None]:
        """A place for this connection while it lasts; None where there is none."""
        connection = self._enter(Connection(sock, address))
        try:
            yield connection
        finally:
            with self._lock:
                if connection in self._open:  # not evicted
                    self._open.remove(connection)

    def _enter(self, connection: Connection) -> Connection | None:
        with self._lock:
            placed = [it for it in self._open if not it.is_over]
            if len(placed) >= self._maximum:
                victim = self._who_makes_room(placed, connection.address)
                if victim is not None:
                    self._open.remove(victim)
                    self.evicted_count += 1
                    victim.drop()
                elif len(self._open) - len(placed) < self._overflow:
                    connection.is_over = True
                else:
                    return None
            self._open.append(connection)
        return connection

    @staticmethod
    def _who_makes_room(placed: list[Connection], newcomer: str) -> Connection | None:
        held = Counter(it.address for it in placed)
        most, its_own = max(held.values()), held[newcomer]
        before = time.monotonic() - SILENT_MIN_S
        able = [
            it
            for it in placed
            if not it.is_serving
            and (
                held[it.address] == most
                if most > its_own + 1
                else held[it.address] >= its_own and it.done_at < before
            )
        ]
        return min(able, key=lambda it: it.done_at, default=None)
