"""Where objects are sent. Imports no DICOM library: settings name destinations."""

import re
from dataclasses import dataclass
from typing import Self

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)  # PS3.5 6.2, AE: no backslash
_PORT_MAX = 65535


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A storage SCP. Raises ValueError when its title, host or port cannot be one."""

    ae_title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if not _AE_TITLE.fullmatch(self.ae_title) or not self.ae_title.strip():
            raise ValueError(f"AE title {self.ae_title!r}: expected 1 to 16 ASCII characters")
        if not self.host or not 1 <= self.port <= _PORT_MAX:
            raise ValueError(f"{self.host!r}, port {self.port}: expected a host and 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``AET@host:port``; an IPv6 host stands in brackets. Raises ValueError."""
        match = re.fullmatch(r"([^@]+)@(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})", text.strip())
        if not match:
            raise ValueError(f"{text!r}: expected AET@host:port")
        return cls(ae_title=match[1], host=match[2].strip("[]"), port=int(match[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"
