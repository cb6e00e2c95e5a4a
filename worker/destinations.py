"""Who gets what: destinations as the settings name them, in the quick form or in a TOML file."""

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from db.tables import ObjectKind
from dicom_io.destination import Destination, Tls, WebDestination

FILE_BYTES_MAX = 1 << 20
SrClass = Literal["comprehensive-3d", "comprehensive"]


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """One destination: its name in the outbox, where it is, and what goes there."""

    name: str
    address: Destination | WebDestination
    objects: frozenset[ObjectKind] = frozenset(ObjectKind)
    sr_class: SrClass = "comprehensive-3d"
    storage_commitment: bool = False
    calling_ae_title: str | None = None  # None: CXR_AE_TITLE
    hold: bool = False

    @property
    def kind(self) -> str:
        return "stow" if isinstance(self.address, WebDestination) else "dicom"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class DestinationsFile:
    path: Path
    recipients: tuple[Recipient, ...]

    def __str__(self) -> str:
        return str(self.path)


def parse(text: str) -> Recipient:
    """Read the quick form: AET@host:port, tls+AET@host:port or https://…/studies.

    Raises ValueError.
    """
    text = text.strip()
    is_web = text.startswith(("http://", "https://"))
    address = WebDestination(url=text) if is_web else Destination.parse(text)
    return Recipient(name=str(address), address=address)


def read_file(path: Path) -> DestinationsFile:
    """Read a TOML file of ``[[destination]]`` tables; ValueError names everything wrong in it."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError("expected a file of at most 1 MiB")
        document = tomllib.loads(content.decode())
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected TOML: {error}") from error
    problems = [f"{key}: no such key; expected [[destination]]" for key in document
                if key != "destination"]  # fmt: skip
    tables = document.get("destination", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("destination: expected [[destination]] tables")
    recipients = []
    for number, table in enumerate(tables, 1):
        where = f"destination {number} ({table.get('name', 'no name')})"
        try:
            recipients.append(_TABLE.validate_python(table).recipient(path.parent))
        except ValidationError as error:
            problems += [f"{where}: {_describe(problem)}" for problem in error.errors()]
        except (ValueError, OSError) as error:
            problems.append(f"{where}: {error}")
    problems += duplicates(recipients)
    if problems:
        raise ValueError("; ".join(problems))
    return DestinationsFile(path=path, recipients=tuple(recipients))


def duplicates(recipients: list[Recipient]) -> list[str]:
    counts = Counter(recipient.name for recipient in recipients)
    return [f"{name}: named {count} times" for name, count in counts.items() if count > 1]


class _Table(BaseModel):
    """What every kind of destination has."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.@:+/-]+$")
    objects: list[Literal["sr", "saliency", "rejection"]] = ["sr", "saliency", "rejection"]
    sr_class: SrClass = "comprehensive-3d"
    hold: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def _tls(self, folder: Path) -> Tls:
        tls = Tls(
            ca_file=_file(folder, self.tls_ca),
            cert_file=_file(folder, self.tls_cert),
            key_file=_file(folder, self.tls_key),
        )
        try:
            tls.client_context()
        except OSError as error:
            raise ValueError(
                f"tls_ca, tls_cert, tls_key: expected readable PEM files ({error.strerror})"
            ) from error
        return tls

    def _common(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "objects": frozenset(ObjectKind(kind) for kind in self.objects),
            "sr_class": self.sr_class,
            "hold": self.hold,
        }


class DicomTable(_Table):
    kind: Literal["dicom"]
    ae_title: str
    host: str
    port: int
    calling_ae_title: str | None = Field(None, pattern=r"^[ -\[\]-~]{1,16}$")
    tls: bool = False
    storage_commitment: bool = False

    def recipient(self, folder: Path) -> Recipient:
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls: expected true where tls_ca, tls_cert or tls_key is given")
        address = Destination(
            ae_title=self.ae_title,
            host=self.host,
            port=self.port,
            tls=self._tls(folder) if self.tls else None,
        )
        return Recipient(
            address=address,
            calling_ae_title=self.calling_ae_title,
            storage_commitment=self.storage_commitment,
            **self._common(),
        )


class WebTable(_Table):
    kind: Literal["stow"]
    url: str
    bearer_token_file: str | None = None

    def recipient(self, folder: Path) -> Recipient:
        token_file = _file(folder, self.bearer_token_file)
        if token_file is not None and not token_file.is_file():
            raise ValueError("bearer_token_file: expected a file that exists")
        address = WebDestination(url=self.url, tls=self._tls(folder), token_file=token_file)
        return Recipient(address=address, **self._common())


_TABLE: TypeAdapter[DicomTable | WebTable] = TypeAdapter(
    Annotated[DicomTable | WebTable, Field(discriminator="kind")]
)


def _file(folder: Path, name: str | None) -> Path | None:
    """A file that the TOML file names: relative to its folder."""
    return None if name is None else (folder / name).absolute()


def _describe(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("dicom", "stow"))
    if problem["type"].startswith("union_tag"):
        return "kind: expected dicom or stow"
    if problem["type"] == "missing":
        return f"{place}: missing"
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such key"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}"
