"""The stage commit: ask destinations to answer for what they were sent, and hear the answer.

An N-ACTION names what was sent; the answer comes to the listener. What a destination does not
hold is sent again. What it does not answer is asked again, each time later, and given up when it
was sent as long ago as an object may wait for its delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import generate_uid

from db import commitments
from db.commitments import DueCommitment
from db.engine import Database, Transaction
from db.errors import LeaseLost
from dicom_io import commitment
from dicom_io.commitment import CommitmentReport
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable
from worker import log
from worker.patience import REFUSALS_MAX, backoff_s, is_too_old

if TYPE_CHECKING:  # the listener, which records answers, has neither model nor NumPy
    from worker.services import Services

REFERENCES_MAX = 200  # of one request
ANSWER_WITHIN_S = 600.0  # doubles with each request
ANSWER_WITHIN_MAX_S = 86_400.0

_log = log.get("commit")


def commit(services: Services, name: str) -> int:
    """Ask the destination of this name about what is due; returns how many objects."""
    transaction_uid = str(generate_uid(prefix=None))
    with services.database.begin() as tx:
        due = commitments.claim_due(
            tx, name, transaction_uid, limit=REFERENCES_MAX, overdue_in_s=_answer_within_s
        )
        due = _without_the_unanswered(tx, due)
    if not due:
        return 0
    recipient = services.settings.recipient(name)
    if recipient is None or not isinstance(recipient.address, Destination):
        _ask_again(services, due, "not among the destinations")
        return 0
    try:
        commitment.request(
            recipient.address,
            recipient.calling_ae_title or services.settings.ae_title,
            transaction_uid,
            [(it.sent.sop_class_uid, it.sent.sop_instance_uid) for it in due],
        )
    except DestinationUnavailable as error:
        _log.warning("destination %s: %s", name, error)
        _ask_again(services, due, str(error))
        return 0
    if len(due) == REFERENCES_MAX:
        services.notify("commit", name)
    return len(due)


def record(database: Database, report: CommitmentReport) -> bool:
    """Write a destination's answer; False if nobody asked under its transaction UID."""
    with database.begin() as tx:
        answer = commitments.record_answer(
            tx,
            report.transaction_uid,
            report.committed,
            report.failed,
            refusals_max=REFUSALS_MAX,
            retry_in_s=backoff_s(1),
        )
    if not answer.known:
        _log.warning("commitment report under a transaction UID that nobody waits for")
    elif report.failed:
        _log.warning(
            "not committed: %s objects to be sent again, %s given up",
            answer.to_be_sent_again,
            answer.given_up,
        )
    return answer.known


def _without_the_unanswered(tx: Transaction, due: list[DueCommitment]) -> list[DueCommitment]:
    """Give up what was asked about for so long; the rest is to be asked about once more."""
    for it in due:
        if is_too_old(tx.now, it.sent_at):
            error = it.held.error or "no answer to the requests for storage commitment"
            commitments.record_unanswered(tx, it.held, error)
    return [it for it in due if not is_too_old(tx.now, it.sent_at)]


def _answer_within_s(attempts: int) -> float:
    return min(ANSWER_WITHIN_S * 2.0 ** min(attempts - 1, 20), ANSWER_WITHIN_MAX_S)


def _ask_again(services: Services, due: list[DueCommitment], error: str) -> None:
    for it in due:
        try:
            with services.database.begin() as tx:
                wait_s = backoff_s(it.held.attempts)
                commitments.ask_again(tx, it.held, error=error, retry_in_s=wait_s)
        except LeaseLost:  # answered by now, or asked by another
            continue
