"""Where objects are sent. Imports no DICOM library: settings name destinations."""

import re
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from dicom_io.tls import harden

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)  # PS3.5 6.2, AE: no backslash
_PORT_MAX = 65535


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How a destination is known, and how we are. No file: the system's CAs, no certificate."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def client_context(self) -> ssl.SSLContext:
        """The profile of `dicom_io.tls`, the certificate and its name checked.

        Raises OSError when a file cannot be read or is no certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        harden(context)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A storage SCP. Raises ValueError when its title, host or port cannot be one.

    tls: None where the connection is not encrypted.
    """

    ae_title: str
    host: str
    port: int
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if not _AE_TITLE.fullmatch(self.ae_title) or not self.ae_title.strip():
            raise ValueError(f"AE title {self.ae_title!r}: expected 1 to 16 ASCII characters")
        if not self.host or not 1 <= self.port <= _PORT_MAX:
            raise ValueError(f"{self.host!r}, port {self.port}: expected a host and 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``AET@host:port``, or ``tls+`` before it; an IPv6 host stands in brackets.

        Raises ValueError.
        """
        address = text.strip()
        tls = Tls() if address.startswith("tls+") else None
        pattern = r"([^@]+)@(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})"
        match = re.fullmatch(pattern, address.removeprefix("tls+"))
        if not match:
            raise ValueError(f"{text!r}: expected AET@host:port or tls+AET@host:port")
        return cls(ae_title=match[1], host=match[2].strip("[]"), port=int(match[3]), tls=tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls+' if self.tls else ''}{self.ae_title}@{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class WebDestination:
    """A STOW-RS origin server (PS3.18 10.5): the address that takes ``POST``.

    token_file: a bearer token, read anew for each delivery. Raises ValueError when the URL is
    none, or would send patients over an open line.
    """

    url: str
    tls: Tls = Tls()
    token_file: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError(f"{self.url!r}: expected https://host/path/studies")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, password, query or fragment")
        if not parts.path.rstrip("/").endswith("/studies"):
            raise ValueError(f"{self.url!r}: expected a path that ends with /studies")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(f"{self.url!r}: expected https; http only to this very machine")

    def __str__(self) -> str:
        return self.url


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine, by address or as `localhost`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
