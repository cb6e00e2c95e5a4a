"""Where audit messages go: a file that is rotated and bounded, or a syslog server.

PS3.15 A.6 and A.7: syslog messages of RFC 5424, over TLS (RFC 5425) or UDP (RFC 5426); beside
them the Unix datagram socket of the machine's own syslog.
"""

import fcntl
import os
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from db import ownership
from dicom_io.destination import Tls

FILE_BYTES_MAX = 16 << 20
TIMEOUT_S = 5.0
PORTS = {"udp": 514, "tls": 6514}
_PRIORITY = 10 * 8 + 5  # security/authorization, notice: PS3.15 A.6
_UNIX_BYTES_MAX = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Record:
    """An encoded message and its time."""

    xml: bytes
    at: datetime


class Sink(Protocol):
    def write(self, record: Record) -> None:
        """Write it, or raise OSError; it will be tried again."""

    def close(self) -> None: ...


class FileSink:
    """One message on each line of a file that processes share.

    Once it is full it is set aside under a number; of these the oldest go. Only its owner reads.
    """

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self._path = path
        self._piece_bytes = min(FILE_BYTES_MAX, max(keep_bytes // 4, 1))
        self._kept = max(keep_bytes // self._piece_bytes - 1, 1)

    def write(self, record: Record) -> None:
        ownership.make_folder(self._path.parent)
        lock = ownership.open_file(self._path.with_suffix(".lock"), os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._append(record.xml + b"\n")
        finally:
            os.close(lock)

    def close(self) -> None:
        """Nothing stays open."""

    def _append(self, line: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(line) > self._piece_bytes:
            self._rotate()
        file = ownership.open_file(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            before = os.fstat(file).st_size
            if os.write(file, line) < len(line):  # the disk is full
                os.ftruncate(file, before)
                raise OSError("disk full")
        finally:
            os.close(file)

    def _rotate(self) -> None:
        def numbered(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}")

        numbered(self._kept).unlink(missing_ok=True)
        for number in range(self._kept - 1, 0, -1):
            if numbered(number).exists():
                numbered(number).rename(numbered(number + 1))
        self._path.rename(numbered(1))


class SyslogSink:
    """A syslog server, connected to when there is something to say."""

    def __init__(self, url: str, tls: Tls) -> None:
        parts = urlsplit(url)
        self._scheme = parts.scheme
        self._path = parts.path
        self._host = parts.hostname or ""
        self._port = parts.port or PORTS.get(parts.scheme, 0)
        self._tls = tls
        self._socket: socket.socket | None = None

    def write(self, record: Record) -> None:
        try:
            self._send(_syslog(record))
        except (OSError, ssl.SSLError):
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes) -> None:
        if self._socket is None:
            self._socket = self._connect()
        if self._scheme == "tls":
            self._socket.sendall(b"%d %s" % (len(message), message))  # RFC 5425 4.3
        else:
            self._socket.send(message[:_UNIX_BYTES_MAX])

    def _connect(self) -> socket.socket:
        if self._scheme == "tls":
            plain = socket.create_connection((self._host, self._port), TIMEOUT_S)
            return self._tls.client_context().wrap_socket(plain, server_hostname=self._host)
        if self._scheme == "unix":
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            address: object = self._path
        else:
            family, _, _, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_DGRAM
            )[0]
            made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(TIMEOUT_S)
        try:
            made.connect(address)  # type: ignore[arg-type]
        except OSError:
            made.close()
            raise
        return made


def _syslog(record: Record) -> bytes:
    """RFC 5424, with the MSGID of PS3.15 A.6 and a byte order mark, for it is UTF-8."""
    host = re.sub(r"[^!-~]", "", socket.gethostname())[:255] or "-"
    at = record.at.isoformat(timespec="milliseconds")
    header = f"<{_PRIORITY}>1 {at} {host} cxr-worker {os.getpid()} DICOM+RFC3881 - "
    return header.encode() + b"\xef\xbb\xbf" + record.xml
