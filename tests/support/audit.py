"""The audit trail as tests read it, held to the schema of PS3.15 A.5.1."""

from functools import cache
from pathlib import Path

from lxml import etree

_SCHEMA = Path(__file__).with_name("audit_message.rng")


@cache
def _schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(_SCHEMA))


def parsed(xml: bytes) -> etree._Element:
    """A message; AssertionError where it is not as the schema says."""
    root = etree.fromstring(xml)
    schema = _schema()
    assert schema.validate(root), (schema.error_log, xml)
    return root


def trail(home: Path) -> list[etree._Element]:
    """Every message of a home's audit file, in order."""
    file = home / "audit" / "audit.xml"
    return [parsed(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def event(message: etree._Element) -> str:
    """The event's meaning, and its type's: "User Authentication: Login"."""
    names = message.xpath("EventIdentification/*/@originalText")
    return ": ".join(names)


def study(message: etree._Element) -> str | None:
    found = message.xpath(
        "ParticipantObjectIdentification[ParticipantObjectIDTypeCode/@csd-code='110180']"
        "/@ParticipantObjectID"
    )
    return found[0] if found else None


def users(message: etree._Element) -> list[str]:
    return [str(it) for it in message.xpath("ActiveParticipant/@UserID")]
