"""Who gets what: destinations as the settings name them, in the quick form or in a TOML file."""

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from db.tables import ObjectKind
from dicom_io.destination import Destination, Tls, WebDestination
from worker.messages.address import (
    PATIENT_PARTS,
    CharacterSet,
    Event,
    MllpDestination,
    PatientPart,
    WebhookDestination,
    read_secret,
)

FILE_BYTES_MAX = 1 << 20
SrClass = Literal["comprehensive-3d", "comprehensive"]
Address = Destination | WebDestination | MllpDestination | WebhookDestination
KINDS: dict[type, str] = {
    Destination: "dicom",
    WebDestination: "stow",
    MllpDestination: "hl7",
    WebhookDestination: "webhook",
}
DICOM_OBJECTS = frozenset({ObjectKind.SR, ObjectKind.SALIENCY, ObjectKind.REJECTION})
MESSAGES = frozenset({ObjectKind.MESSAGE, ObjectKind.REJECTION})


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """One destination: its name in the outbox, where it is, and what goes there."""

    name: str
    address: Address
    objects: frozenset[ObjectKind] = DICOM_OBJECTS
    sr_class: SrClass = "comprehensive-3d"
    storage_commitment: bool = False
    calling_ae_title: str | None = None  # None: CXR_AE_TITLE
    hold: bool = False

    @property
    def kind(self) -> str:
        return KINDS[type(self.address)]

    @property
    def takes_messages(self) -> bool:
        """Whether it is told of results in messages instead of DICOM objects."""
        return ObjectKind.MESSAGE in self.objects

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

    def _tls_if(self, wanted: bool, folder: Path) -> Tls | None:
        if not wanted and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls: expected true where tls_ca, tls_cert or tls_key is given")
        return self._tls(folder) if wanted else None


class _ObjectsTable(_Table):
    """What takes DICOM objects has these as well."""

    objects: list[Literal["sr", "saliency", "rejection"]] = ["sr", "saliency", "rejection"]
    sr_class: SrClass = "comprehensive-3d"

    def _common(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "objects": frozenset(ObjectKind(kind) for kind in self.objects),
            "sr_class": self.sr_class,
            "hold": self.hold,
        }


class DicomTable(_ObjectsTable):
    kind: Literal["dicom"]
    ae_title: str
    host: str
    port: int
    calling_ae_title: str | None = Field(None, pattern=r"^[ -\[\]-~]{1,16}$")
    tls: bool = False
    storage_commitment: bool = False

    def recipient(self, folder: Path) -> Recipient:
        address = Destination(
            ae_title=self.ae_title,
            host=self.host,
            port=self.port,
            tls=self._tls_if(self.tls, folder),
        )
        return Recipient(
            address=address,
            calling_ae_title=self.calling_ae_title,
            storage_commitment=self.storage_commitment,
            **self._common(),
        )


class WebTable(_ObjectsTable):
    kind: Literal["stow"]
    url: str
    bearer_token_file: str | None = None

    def recipient(self, folder: Path) -> Recipient:
        token_file = _file(folder, self.bearer_token_file)
        if token_file is not None and not token_file.is_file():
            raise ValueError("bearer_token_file: expected a file that exists")
        address = WebDestination(url=self.url, tls=self._tls(folder), token_file=token_file)
        return Recipient(address=address, **self._common())


HdText = Annotated[str, Field(max_length=180)]  # HL7 v2.5.1, HD: of MSH-3 to MSH-6


class Hl7Table(_Table):
    kind: Literal["hl7"]
    host: str
    port: int
    tls: bool = False
    receiving_application: HdText = ""
    receiving_facility: HdText = ""
    sending_application: HdText = "CXR_WORKER"
    sending_facility: HdText = ""
    processing_id: Literal["P", "T", "D"] = "P"
    character_set: CharacterSet = "utf-8"
    patient: list[PatientPart] = list(PATIENT_PARTS)
    assigning_authority: HdText = ""

    def recipient(self, folder: Path) -> Recipient:
        kept = self.model_dump(exclude={"kind", "name", "hold", "tls_ca", "tls_cert", "tls_key"})
        kept |= {"tls": self._tls_if(self.tls, folder), "patient": tuple(self.patient)}
        address = MllpDestination(**kept)
        return Recipient(name=self.name, address=address, objects=MESSAGES, hold=self.hold)


class WebhookTable(_Table):
    kind: Literal["webhook"]
    url: str
    secret_file: str
    events: list[Event] = ["positive", "review"]
    patient: bool = False

    def recipient(self, folder: Path) -> Recipient:
        secret_file = _file(folder, self.secret_file)
        assert secret_file is not None
        try:
            read_secret(secret_file)
        except OSError as error:
            raise ValueError(f"secret_file: cannot be read ({error.strerror})") from error
        address = WebhookDestination(
            url=self.url,
            secret_file=secret_file,
            tls=self._tls(folder),
            events=tuple(self.events),
            patient=self.patient,
        )
        return Recipient(name=self.name, address=address, objects=MESSAGES, hold=self.hold)


Table = DicomTable | WebTable | Hl7Table | WebhookTable
_TABLE: TypeAdapter[Table] = TypeAdapter(Annotated[Table, Field(discriminator="kind")])


def _file(folder: Path, name: str | None) -> Path | None:
    """A file that the TOML file names: relative to its folder."""
    return None if name is None else (folder / name).absolute()


def _describe(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in KINDS.values())
    if problem["type"].startswith("union_tag"):
        return "kind: expected dicom, stow, hl7 or webhook"
    if problem["type"] == "missing":
        return f"{place}: missing"
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such key"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}"
