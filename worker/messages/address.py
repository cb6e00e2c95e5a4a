"""Where messages go, and what each of these destinations wants of them."""

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dicom_io.destination import Tls, is_loopback

CharacterSet = Literal["utf-8", "latin-1", "ascii"]
PatientPart = Literal["id", "name", "birth_date", "sex"]
PATIENT_PARTS: tuple[PatientPart, ...] = ("id", "name", "birth_date", "sex")
Event = Literal["positive", "review", "negative", "none", "failed"]
SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES_MIN = 24  # as Standard Webhooks asks for
_PORT_MAX = 65535


@dataclass(frozen=True, kw_only=True)
class MllpDestination:
    """An HL7 v2 receiver. Raises ValueError when host or port cannot be one.

    tls: None where the connection is not encrypted. application, facility: the receiver's
    (MSH-5, MSH-6) and ours (MSH-3, MSH-4). processing_id: P production, T training, D debugging.
    assigning_authority: who gave the patient ID, where the images do not say so.
    """

    host: str
    port: int
    tls: Tls | None = None
    receiving_application: str = ""
    receiving_facility: str = ""
    sending_application: str = "CXR_WORKER"
    sending_facility: str = ""
    processing_id: str = "P"
    character_set: CharacterSet = "utf-8"
    patient: tuple[PatientPart, ...] = PATIENT_PARTS
    assigning_authority: str = ""

    def __post_init__(self) -> None:
        if not self.host or not 1 <= self.port <= _PORT_MAX:
            raise ValueError(f"{self.host!r}, port {self.port}: expected a host and 1 to 65535")


@dataclass(frozen=True, kw_only=True)
class WebhookDestination:
    """A URL that is told of results. Raises ValueError when it is none, or would be told openly.

    secret_file: what both sides sign with, read anew for each delivery. events: what is told.
    patient: whether that names the patient and the accession number.
    """

    url: str
    secret_file: Path
    tls: Tls = field(default_factory=Tls)
    events: tuple[Event, ...] = ("positive", "review")
    patient: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError(f"{self.url!r}: expected https://host/path")
        if parts.username or parts.password or parts.fragment:
            raise ValueError("expected a URL without user, password or fragment")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(f"{self.url!r}: expected https; http only to this very machine")


def read_secret(path: Path) -> bytes:
    """The key of a secret file: `whsec_` and base64. Raises ValueError, or OSError."""
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"secret_file: expected {SECRET_PREFIX} and base64")
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"secret_file: expected base64 after {SECRET_PREFIX}") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(f"secret_file: expected at least {SECRET_BYTES_MIN} bytes")
    return secret
