"""Every setting, in one place: read once at the edge, frozen, and checked all at once.

A setting `dicom_port` is the environment variable `CXR_DICOM_PORT`, or a line of `.env` in the
folder where the command runs; the environment wins. `docs/SETTINGS.md` lists them for people,
and a test holds that page against this class.
"""

import difflib
import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from dicom_io.tls import ClientCertificate
from worker import destinations, embedded
from worker.destinations import DestinationsFile, Recipient
from worker.errors import BadSettings

PREFIX = "CXR_"
SECRETS = {
    "database_url",
    "broker_url",
    "web_token",
    "web_oidc_client_secret",
}  # they are or may hold a password
_MAY_BE_EMPTY = {"web_oidc_client_secret"}  # of a public client
_FILE = "_file"  # CXR_WEB_TOKEN_FILE names a file that holds CXR_WEB_TOKEN
_SECRET_BYTES_MAX = 4096
WEB_TOKEN_LENGTH_MIN = 16


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _ae_title(value: str) -> str:
    """PS3.5 6.2: 1 to 16 characters of the default repertoire, no backslash, no control."""
    if not 1 <= len(value) <= 16 or not value.isascii() or not value.isprintable():  # noqa: PLR2004
        raise ValueError("expected an AE title: 1 to 16 printable ASCII characters")
    if "\\" in value or value.strip() != value:
        raise ValueError("expected an AE title: no backslash, no space at either end")
    return value


def _code_string(value: str) -> str:
    """PS3.5 6.2, CS: written in capitals, whatever the setting has."""
    if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", value.upper(), re.ASCII):
        raise ValueError("expected letters, digits, space or underscore, at most 16 each")
    return value.upper()


AeTitle = Annotated[str, BeforeValidator(lambda value: _ae_title(str(value)))]
CodeString = Annotated[str, BeforeValidator(lambda value: _code_string(str(value)))]
CommaSeparated = BeforeValidator(_split)


class Settings(BaseModel):
    """The whole configuration of one process. Durations end in their unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    home_dir: Path = Field(
        Path("var"), description="Folder of everything that is kept: spool, database, broker."
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="postgresql://user:password@host/name or sqlite:///path. "
        "Empty: SQLite in the home folder.",
        validate_default=True,
    )
    broker_url: SecretStr = Field(
        SecretStr(""), description="redis://… or rediss://… Empty: the embedded broker."
    )
    broker_tls_ca: Path | None = Field(
        None, description="PEM file of the CAs of a rediss:// broker. Empty: the system's."
    )
    broker_tls_cert: Path | None = Field(
        None, description="PEM file of our certificate for a rediss:// broker."
    )
    broker_tls_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    ae_title: AeTitle = Field(
        "CXR_WORKER", description="Our AE title, as SCP and as SCU; callers must use it."
    )
    bind: str = Field("127.0.0.1", description="Address the listener binds to.")
    dicom_port: int = Field(11112, ge=0, le=65535, description="Listener's port; 0: any free one.")
    listener_processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Processes that receive on the one port. Empty: one per core, at most 4.",
    )
    listener_plain: bool = Field(
        True, description="Off: CXR_DICOM_PORT is not served, only CXR_LISTENER_TLS_PORT."
    )
    listener_tls_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Listener's port for DICOM over TLS, usually 2762; 0: any free one. "
        "Empty: none.",
    )
    listener_tls_cert: Path | None = Field(
        None, description="PEM file of the listener's certificate, and of its CAs below it."
    )
    listener_tls_key: Path | None = Field(
        None, description="PEM file of the certificate's key, without a password."
    )
    listener_tls_ca: Path | None = Field(
        None, description="PEM file of the CAs, or the certificates, of those who may connect."
    )
    listener_tls_client_certificate: ClientCertificate = Field(
        ClientCertificate.REQUIRED,
        description="Whether a peer must show a certificate (required), may (optional), or is not "
        "asked for one (none).",
    )
    listener_tls_crl: Path | None = Field(
        None,
        description="PEM file of the certificate revocation lists of these CAs: who is in one, or "
        "has no current list, may not connect. Empty: none is asked.",
    )
    allowed_calling_ae_titles: Annotated[tuple[AeTitle, ...], CommaSeparated] = Field(
        (), description="Who may associate, by AE title, comma-separated. Empty: anyone."
    )
    allowed_ips: Annotated[tuple[IPv4Network | IPv6Network, ...], CommaSeparated] = Field(
        (), description="Addresses or networks that may associate. Empty: anyone."
    )
    destinations: Annotated[tuple[Recipient, ...], CommaSeparated] = Field(
        (),
        description="Where reports go: AET@host:port, tls+AET@host:port or https://…/studies, "
        "comma-separated. Empty: results stay in the database.",
    )
    destinations_file: DestinationsFile | None = Field(
        None, description="TOML file of more destinations, each with its own options."
    )
    delivery: bool = Field(
        True, description="Off: shadow mode; reports are built and kept, never sent."
    )
    study_settle_s: float = Field(
        30, ge=0, le=86400, description="Quiet time after a study's last image before its report."
    )
    saliency: bool = Field(
        True,
        description="Off: no picture of where the model looked beside the report of an image that "
        "is positive or to be reviewed.",
    )
    model_bundle: Path | None = Field(
        None, description="Folder of the model bundle. Empty: the shipped one."
    )
    challenger_bundle: Path | None = Field(
        None,
        description="Folder of a second model's bundle: it is tried on the same pictures and "
        "compared, never reported. Empty: none.",
    )
    band_review_from: float | None = Field(
        None, gt=0, lt=1, description="Probability from which to review. Empty: the bundle's."
    )
    band_positive_from: float | None = Field(
        None, gt=0, lt=1, description="Probability from which positive. Empty: the bundle's."
    )
    prevalence: float = Field(
        0.1, gt=0, lt=1, description="Share of pneumonia among the site's images."
    )
    outside_intended_use: Literal["withhold", "mark"] = Field(
        "withhold",
        description="Outside the model's intended use: report why there is no probability "
        "(withhold), or report it with a warning (mark).",
    )
    eligible_modalities: Annotated[tuple[CodeString, ...], CommaSeparated] = Field(
        ("CR", "DX"), description="Modalities that are analysed, comma-separated."
    )
    eligible_body_parts: Annotated[tuple[CodeString, ...], CommaSeparated] = Field(
        ("CHEST", "THORAX", "LUNG", "LUNGS"),
        description="Body Part Examined that is taken for a chest, comma-separated.",
    )
    unknown_body_part: Literal["accept", "refuse"] = Field(
        "accept", description="Images that name no body part: analysed, or rejected."
    )
    unknown_view: Literal["accept", "refuse"] = Field(
        "accept", description="Images that name no view: analysed, or rejected."
    )
    min_image_side_px: int = Field(
        224, ge=1, le=65535, description="Images with a shorter side are rejected."
    )
    max_study_age_days: int = Field(
        7, ge=0, le=100_000, description="Older studies are analysed but not delivered."
    )
    test_patient_pattern: re.Pattern[str] | None = Field(
        None, description="Regular expression on Patient ID: reports are never delivered."
    )
    timezone: str = Field("UTC", description="Time zone of reports whose images name none.")
    spool_reserve_mb: int = Field(
        1024, ge=0, description="Free disk below which stores are refused (0xA700)."
    )
    retention_days: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Days after which pixel data of reported and delivered studies leaves the "
        "spool. Empty: never.",
    )
    retention_disk_percent: int | None = Field(
        None,
        ge=1,
        le=99,
        description="How full the spool's disk may be, in percent, before pixel data of reported "
        "and delivered studies leaves it, the oldest first, whatever their age. Empty: any.",
    )
    web: bool = Field(True, description="Whether `up` serves the web page, its API and metrics.")
    web_bind: str = Field("127.0.0.1", description="Address that page, API and metrics bind to.")
    web_port: int = Field(8080, ge=0, le=65535, description="Page and API; 0: any free one.")
    web_token: SecretStr = Field(
        SecretStr(""),
        description="Key of the page and bearer token of the API, at least 16 characters. "
        "Needed unless bound to a loopback address or behind a trusted proxy.",
        validate_default=True,
    )
    web_user_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]{0,64}$",
        description="Header in which a trusted proxy names the user, such as X-Forwarded-User.",
    )
    web_trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], CommaSeparated] = Field(
        (), description="Addresses or networks of the proxies whose header is believed."
    )
    web_url: str = Field(
        "",
        description="Address at which people open the page, such as https://cxr.example. Needed "
        "with CXR_WEB_OIDC_ISSUER.",
    )
    web_oidc_issuer: str = Field(
        "",
        description="OpenID Connect provider that people sign in with, exactly as its discovery "
        "document names it. Empty: none.",
    )
    web_oidc_client_id: str = Field("", description="Our client ID there.")
    web_oidc_client_secret: SecretStr = Field(
        SecretStr(""),
        description="Our client secret there. Empty: a public client; PKCE either way.",
    )
    web_oidc_scope: str = Field(
        "openid profile",
        pattern=r"^(.* )?openid( .*)?$",
        description="What is asked for.",
    )
    web_oidc_user_claim: str = Field(
        "preferred_username", min_length=1, description="Claim that names the user."
    )
    web_oidc_role_claim: str = Field(
        "", description="Claim that lists roles or groups, such as groups or realm_access.roles."
    )
    web_oidc_allowed: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (),
        description="Users, or roles where there is a role claim, that may come in. "
        "Empty: whom the provider signs in.",
    )
    web_oidc_operators: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (),
        description="Users, or roles where there is a role claim, that may also reprocess, "
        "retry and upload. Empty: all.",
    )
    web_show_patients: bool = Field(
        False, description="Whether the page shows the patient's name and ID."
    )
    web_viewer_url: str = Field(
        "",
        description="Link to the PACS viewer, with {study_instance_uid} in it. Empty: no link.",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Prometheus metrics; 0: any free port. Empty: none."
    )
    audit: str = Field(
        "file",
        description="Where audit messages go: file (audit/audit.xml in the home folder), a syslog "
        "server (tls://host:6514, udp://host:514, unix:///dev/log), or off.",
    )
    audit_keep_mb: int = Field(
        256, ge=1, le=1_000_000, description="Of the audit file and those set aside, what is kept."
    )
    audit_tls_ca: Path | None = Field(
        None, description="PEM file of the CAs of a tls:// audit server. Empty: the system's."
    )
    audit_tls_cert: Path | None = Field(
        None, description="PEM file of our certificate for a tls:// audit server."
    )
    audit_tls_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    audit_patient_id: bool = Field(
        False, description="Whether audit messages name the patient, by Patient ID."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="One line per event: text, or json."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object, info: Any) -> object:
        if isinstance(value, str) and value.strip() == "":
            return cls.model_fields[info.field_name].get_default()
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("expected postgresql://… or sqlite:///…")
        return value

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("redis://", "rediss://", "redis+socket://")):
            raise ValueError("expected redis://…, rediss://… or redis+socket://…")
        if "ssl_" in urlsplit(url).query:
            raise ValueError("expected no ssl_… in it: the certificate is always checked, see "
                             "CXR_BROKER_TLS_CA")  # fmt: skip
        return value

    @field_validator("audit")
    @classmethod
    def _known_audit(cls, value: str) -> str:
        parts = urlsplit(value)
        is_server = parts.scheme in ("tls", "udp") and parts.hostname and not parts.path
        if is_server and parts.port == 0:  # .port raises ValueError for what is none
            raise ValueError("expected a port of 1 to 65535")
        is_socket = parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc
        if value not in ("file", "off") and not is_server and not is_socket:
            raise ValueError("expected file, off, tls://host:port, udp://host:port or unix:///path")
        return value

    @field_validator("web_token")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value()
        if token and (len(token) < WEB_TOKEN_LENGTH_MIN or not token.isascii()):
            raise ValueError(f"expected at least {WEB_TOKEN_LENGTH_MIN} ASCII characters")
        return value

    @field_validator("web_viewer_url")
    @classmethod
    def _viewer_is_http(cls, value: str) -> str:
        if value and not (
            value.startswith(("http://", "https://")) and "{study_instance_uid}" in value
        ):
            raise ValueError("expected http(s)://… with {study_instance_uid} in it")
        return value

    @field_validator("web_url", "web_oidc_issuer")
    @classmethod
    def _is_safe_address(cls, value: str) -> str:
        parts = urlsplit(value)
        safe = parts.scheme == "https" or (
            parts.scheme == "http" and is_loopback(parts.hostname or "")
        )
        if value and (not safe or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("expected https://…; http only for this very machine")
        return value

    @field_validator("allowed_ips", "web_trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        parts = _split(value)
        if isinstance(parts, tuple):
            return tuple(ip_network(part, strict=False) for part in parts)
        return value

    @field_validator("destinations", mode="before")
    @classmethod
    def _parse_destinations(cls, value: object) -> object:
        parts = _split(value)
        if isinstance(parts, tuple):
            return tuple(destinations.parse(p) if isinstance(p, str) else p for p in parts)
        return value

    @field_validator("destinations_file", mode="before")
    @classmethod
    def _read_destinations(cls, value: object) -> object:
        if isinstance(value, str):
            return destinations.read_file(Path(value)) if value.strip() else None
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("expected a time zone such as Europe/Berlin") from error
        return value

    @model_validator(mode="after")
    def _bands_are_ordered(self) -> Self:
        low, high = self.band_review_from, self.band_positive_from
        if low is not None and high is not None and low > high:
            raise ValueError("CXR_BAND_REVIEW_FROM must not be above CXR_BAND_POSITIVE_FROM")
        return self

    @model_validator(mode="after")
    def _web_is_guarded(self) -> Self:
        if bool(self.web_user_header) != bool(self.web_trusted_proxies):
            raise ValueError("CXR_WEB_USER_HEADER and CXR_WEB_TRUSTED_PROXIES need each other")
        oidc = (self.web_oidc_issuer, self.web_oidc_client_id, self.web_url)
        if any(oidc[:2]) and not all(oidc):
            raise ValueError(
                "CXR_WEB_OIDC_ISSUER, CXR_WEB_OIDC_CLIENT_ID and CXR_WEB_URL need each other"
            )
        token = self.web_token.get_secret_value()
        guarded = token or self.web_user_header or self.web_oidc_issuer
        if not guarded and not is_loopback(self.web_bind):
            raise ValueError(
                "CXR_WEB_BIND is no loopback address: set CXR_WEB_TOKEN, or CXR_WEB_USER_HEADER "
                "and CXR_WEB_TRUSTED_PROXIES, or CXR_WEB_OIDC_ISSUER"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        files = (
            self.listener_tls_cert,
            self.listener_tls_key,
            self.listener_tls_ca,
            self.listener_tls_crl,
        )
        if self.listener_tls_port is None:
            if not self.listener_plain:
                raise ValueError("CXR_LISTENER_PLAIN is off: CXR_LISTENER_TLS_PORT is needed")
            if any(files):
                raise ValueError("CXR_LISTENER_TLS_…: CXR_LISTENER_TLS_PORT is needed")
            return self
        if None in files[:2]:
            raise ValueError(
                "CXR_LISTENER_TLS_PORT: CXR_LISTENER_TLS_CERT and CXR_LISTENER_TLS_KEY are needed"
            )
        wants_ca = self.listener_tls_client_certificate is not ClientCertificate.NONE
        if wants_ca != (self.listener_tls_ca is not None):
            raise ValueError(
                "CXR_LISTENER_TLS_CA is needed, and used, only with "
                "CXR_LISTENER_TLS_CLIENT_CERTIFICATE=required or optional"
            )
        if self.listener_tls_crl is not None and not wants_ca:
            raise ValueError("CXR_LISTENER_TLS_CRL is used only where certificates are asked for")
        return self

    @model_validator(mode="after")
    def _destinations_have_names_of_their_own(self) -> Self:
        if problems := destinations.duplicates(list(self.recipients)):
            where = "CXR_DESTINATIONS and CXR_DESTINATIONS_FILE"
            raise ValueError(f"{where}: {'; '.join(problems)}")
        return self

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Every destination, whichever setting names it."""
        listed = self.destinations_file
        return self.destinations + (listed.recipients if listed else ())

    def recipient(self, name: str) -> Recipient | None:
        return next((it for it in self.recipients if it.name == name), None)

    @property
    def home(self) -> Path:
        return self.home_dir.resolve()

    @property
    def database(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'cxr.db'}"

    @property
    def broker(self) -> str:
        """With what a rediss:// connection is to check and to show, in kombu's words."""
        url = self.broker_url.get_secret_value() or embedded.broker_url(self.home)
        if not url.startswith("rediss://"):
            return url
        files = {
            "ssl_ca_certs": self.broker_tls_ca,
            "ssl_certfile": self.broker_tls_cert,
            "ssl_keyfile": self.broker_tls_key,
        }
        given = {name: str(path) for name, path in files.items() if path is not None}
        query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true", **given}
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query)}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment, and `.env` below it; BadSettings names every bad variable."""
        values = _collect(os.environ if environ is None else environ, Path(".env"))
        values, problems = _read_secrets(values)
        problems += _unknown(cls, values)
        known = {name: value for name, value in values.items() if name in cls.model_fields}
        try:
            settings = cls.model_validate(known)
        except ValidationError as error:
            problems += [_describe(problem, known) for problem in error.errors()]
        if problems:
            raise BadSettings("bad settings:\n" + "\n".join(f"  {line}" for line in problems))
        return settings

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process."""
        return {
            PREFIX + name.upper(): _as_text(getattr(self, name)) for name in type(self).model_fields
        }


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _collect(environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    from_file = dotenv_values(dotenv) if dotenv.is_file() else {}
    merged = {**from_file, **environ}
    return {
        name.removeprefix(PREFIX).lower(): value or ""
        for name, value in merged.items()
        if name.startswith(PREFIX)
    }


def _read_secrets(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Put the content of each `…_FILE` in its place; a variable that is set itself wins."""
    found = dict(values)
    problems = []
    for name in sorted(SECRETS):
        path = found.pop(name + _FILE, "").strip()
        if not path or found.get(name, "").strip():
            continue
        try:
            found[name] = _read_secret(Path(path), may_be_empty=name in _MAY_BE_EMPTY)
        except ValueError as error:
            problems.append(f"{PREFIX}{(name + _FILE).upper()}={path!r}: {error}")
    return found, problems


def _read_secret(path: Path, *, may_be_empty: bool) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    text = content.decode(errors="replace").strip()
    if not (text or may_be_empty) or len(content) > _SECRET_BYTES_MAX:
        raise ValueError(f"expected text of 1 to {_SECRET_BYTES_MAX} bytes")
    return text


def _unknown(cls: type[Settings], values: Mapping[str, str]) -> list[str]:
    problems = []
    for name in sorted(values.keys() - cls.model_fields.keys()):
        near = difflib.get_close_matches(name, cls.model_fields, n=1)
        hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else "remove it"
        problems.append(f"{PREFIX}{name.upper()}: no such setting; {hint}")
    return problems


def _describe(problem: Any, values: Mapping[str, str]) -> str:
    if not problem["loc"]:
        return str(problem["msg"]).removeprefix("Value error, ")
    name = str(problem["loc"][0])
    shown = "***" if name in SECRETS else repr(values.get(name, ""))
    expected = str(problem["msg"]).removeprefix("Value error, ")
    return f"{PREFIX}{name.upper()}={shown}: {expected[0].lower()}{expected[1:]}"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, re.Pattern):
        return str(value.pattern)
    if isinstance(value, tuple):
        return ",".join(_as_text(part) for part in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
