"""Storage commitment as SCU: ask a destination to answer for objects, and read its answer.

The answer comes later, as an N-EVENT-REPORT over an association that the destination opens to
our listener (PS3.4 J.3.3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.presentation import build_context

from dicom_io.association import Timeouts, associated
from dicom_io.contexts import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable, UnreadableDicom
from dicom_io.read import text_value
from dicom_io.references import reference

_REQUEST = 1  # PS3.4 J.3.2: action type
_REFERENCES_MAX = 10_000

# PS3.3 C.14.1.1
FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "referenced SOP class not supported",
    0x0119: "class and instance do not belong together",
    0x0131: "duplicate transaction UID",
}


@dataclass(frozen=True, kw_only=True)
class CommitmentReport:
    """A destination's answer. failed: SOP Instance UID and reason of what it does not hold."""

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, str] = field(default_factory=dict)


def request(
    destination: Destination,
    calling_ae_title: str,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    timeouts: Timeouts | None = None,
) -> None:
    """N-ACTION: ask for commitment of (SOP class UID, SOP instance UID) pairs.

    Raises DestinationUnavailable when it cannot be asked, offers no commitment, or says no.
    """
    contexts = [
        build_context(STORAGE_COMMITMENT, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
    ]
    with associated(destination, calling_ae_title, contexts, timeouts) as assoc:
        if not assoc.accepted_contexts:
            raise DestinationUnavailable("offers no storage commitment")
        response, _ = assoc.send_n_action(
            _information(transaction_uid, references),
            _REQUEST,
            UID(STORAGE_COMMITMENT),
            UID(STORAGE_COMMITMENT_INSTANCE),
        )
    status = response.get("Status")
    if status != 0:
        answer = "no answer" if status is None else f"status 0x{status:04X}"
        raise DestinationUnavailable(f"{answer} to N-ACTION")


def read_report(information: Dataset) -> CommitmentReport:
    """Read the event information of an N-EVENT-REPORT. Raises UnreadableDicom."""
    transaction_uid = text_value(information, "TransactionUID", 64)
    if not transaction_uid:
        raise UnreadableDicom("no Transaction UID")
    try:
        done = {_uid(item) for item in _items(information, "ReferencedSOPSequence")}
        failed = {_uid(it): _reason(it) for it in _items(information, "FailedSOPSequence")}
    except Exception as error:  # a peer's data set, read lazily
        raise UnreadableDicom(f"commitment report is corrupt ({type(error).__name__})") from None
    return CommitmentReport(
        transaction_uid=transaction_uid, committed=frozenset(done - failed.keys()), failed=failed
    )


def _information(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [reference(*it) for it in references]
    return information


def _items(information: Dataset, keyword: str) -> Iterator[Dataset]:
    yield from list(information.get(keyword) or [])[:_REFERENCES_MAX]


def _uid(item: Dataset) -> str:
    return str(item.ReferencedSOPInstanceUID)


def _reason(item: Dataset) -> str:
    reason = int(item.get("FailureReason", 0))
    return FAILURE_REASONS.get(reason, f"failure reason 0x{reason:04X}")
