"""Storage commitment: asked over a real association, answered over one to a real listener."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.transport import ThreadedAssociationServer

from db.tables import outbox
from dicom_io.contexts import STORAGE_COMMITMENT
from dicom_io.destination import Destination
from tests.support.outbox import Outbox
from tests.support.system import Pacs, lone_pacs
from worker import commit, deliver, patience, scp
from worker.destinations import parse

pacs = pytest.fixture(lone_pacs)


@pytest.fixture
def sent(pacs: Pacs, tmp_path: Path) -> Outbox:
    """A study's report and picture, delivered to a PACS that offers commitment."""
    waiting = Outbox(tmp_path, replace(parse(pacs.destination), storage_commitment=True))
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, pacs.destination) == 2
    return waiting


@pytest.fixture
def listener(
    sent: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Destination]:
    monkeypatch.setattr("tempfile.tempdir", None)  # put back afterwards
    server: ThreadedAssociationServer = scp.start_server(
        scp.bind_port("127.0.0.1", 0),
        store=lambda path, origin: 0,
        record_commitment=partial(commit.record, sent.database),
        temp_folder=tmp_path,
        ae_title="CXR_WORKER",
    )
    port = server.server_address[1]
    yield Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=port)
    server.shutdown()


def _states(waiting: Outbox) -> list[str]:
    return [row["state"] for row in waiting.deliveries()]


def test_what_was_sent_is_asked_about_once_and_is_committed_by_the_answer(
    sent: Outbox, pacs: Pacs, listener: Destination
) -> None:
    assert commit.commit(sent.services, pacs.destination) == 2
    assert commit.commit(sent.services, pacs.destination) == 0
    (request,) = pacs.commitments
    asked = [it.ReferencedSOPInstanceUID for it in request.ReferencedSOPSequence]
    assert asked == [row["sop_instance_uid"] for row in sent.deliveries()]
    assert _states(sent) == ["sent", "sent"]
    assert pacs.report_commitment(request, listener) == 0x0000
    assert _states(sent) == ["committed", "committed"]
    assert all(row["committed_at"] is not None for row in sent.deliveries())
    assert pacs.report_commitment(request, listener) == 0x0000  # once more changes nothing
    sent.make_due()
    assert commit.commit(sent.services, pacs.destination) == 0


def test_what_is_not_committed_is_sent_again_in_the_same_bytes_and_at_last_given_up(
    sent: Outbox, pacs: Pacs, listener: Destination
) -> None:
    report, picture = (row["sop_instance_uid"] for row in sent.deliveries())
    for _ in range(patience.REFUSALS_MAX):
        commit.commit(sent.services, pacs.destination)
        assert pacs.report_commitment(pacs.commitments[-1], listener, {report: 0x0112}) == 0
        sent.make_due()
        deliver.deliver(sent.services, pacs.destination)
    assert _states(sent) == ["failed", "committed"]
    assert sent.deliveries()[0]["error"] == "not committed: no such object instance"
    uids = [ds.SOPInstanceUID for ds in pacs.received]
    assert uids == [report, picture] + [report] * (patience.REFUSALS_MAX - 1)
    assert all(ds == pacs.received[0] for ds in pacs.received[2:])


def test_an_answer_that_does_not_come_is_asked_for_again_under_another_transaction(
    sent: Outbox, pacs: Pacs, listener: Destination
) -> None:
    commit.commit(sent.services, pacs.destination)
    sent.make_due()
    assert commit.commit(sent.services, pacs.destination) == 2
    first, second = pacs.commitments
    assert first.TransactionUID != second.TransactionUID
    assert pacs.report_commitment(first, listener) == scp.INVALID_ARGUMENT_VALUE
    assert _states(sent) == ["sent", "sent"]
    assert pacs.report_commitment(second, listener) == 0
    assert _states(sent) == ["committed", "committed"]


def test_who_takes_the_request_and_never_answers_is_not_asked_for_ever(
    sent: Outbox, pacs: Pacs
) -> None:
    """A PACS behind a firewall that lets us in and it not out."""
    (report, _) = sent.deliveries()
    assert commit.commit(sent.services, pacs.destination) == 2
    with sent.database.begin() as tx:
        long_ago = tx.now - timedelta(days=patience.DELIVERY_AGE_MAX_DAYS + 1)
        old = sa.update(outbox).where(outbox.c.id == report["id"])
        tx.conn.execute(old.values(sent_at=long_ago))
    sent.make_due()
    assert commit.commit(sent.services, pacs.destination) == 1  # the other one
    assert _states(sent) == ["failed", "sent"]
    assert "no answer" in sent.deliveries()[0]["error"]
    assert sent.deliveries()[0]["due_at"] is None


def test_each_answer_is_waited_for_longer() -> None:
    waits = [commit._answer_within_s(attempts) for attempts in range(1, 40)]
    assert waits[:3] == [600, 1200, 2400]
    assert waits[-1] == 86_400


def test_a_destination_that_offers_none_is_asked_later_and_not_for_ever(
    tmp_path: Path, pacs: Pacs
) -> None:
    from dicom_io.contexts import listener_contexts

    storage = [it for it in listener_contexts() if it.abstract_syntax != STORAGE_COMMITMENT]
    plain = Pacs(storage)
    try:
        waiting = Outbox(tmp_path, replace(parse(plain.destination), storage_commitment=True))
        waiting.add_report(1)
        deliver.deliver(waiting.services, plain.destination)
        assert commit.commit(waiting.services, plain.destination) == 0
        (row, _) = waiting.deliveries()
        assert row["state"] == "sent"
        assert "offers no storage commitment" in row["error"]
        with waiting.database.begin() as tx:
            long_ago = tx.now - timedelta(days=patience.DELIVERY_AGE_MAX_DAYS + 1)
            tx.conn.execute(sa.update(outbox).values(sent_at=long_ago))
        waiting.make_due()
        commit.commit(waiting.services, plain.destination)
        assert "offers no storage commitment" in waiting.deliveries()[0]["error"]
        assert _states(waiting) == ["failed", "failed"]
    finally:
        plain.close()


def test_an_answer_may_leave_objects_out(sent: Outbox, pacs: Pacs, listener: Destination) -> None:
    commit.commit(sent.services, pacs.destination)
    (request,) = pacs.commitments
    request.ReferencedSOPSequence = request.ReferencedSOPSequence[:1]
    pacs.report_commitment(request, listener)
    assert _states(sent) == ["committed", "sent"]
    sent.make_due()
    assert commit.commit(sent.services, pacs.destination) == 1


def test_a_report_without_a_transaction_or_with_rubbish_is_refused(
    sent: Outbox, pacs: Pacs, listener: Destination
) -> None:
    commit.commit(sent.services, pacs.destination)
    (request,) = pacs.commitments
    nameless, broken = Dataset(), Dataset()
    nameless.ReferencedSOPSequence = request.ReferencedSOPSequence
    broken.TransactionUID = request.TransactionUID
    broken.ReferencedSOPSequence = [Dataset()]
    for information in (nameless, broken):
        status = pacs.n_event_report(information, listener, 1)
        assert status == scp.INVALID_ARGUMENT_VALUE
    assert _states(sent) == ["sent", "sent"]


def test_a_database_that_is_down_is_a_processing_failure(
    sent: Outbox, pacs: Pacs, listener: Destination
) -> None:
    commit.commit(sent.services, pacs.destination)
    with sent.database.begin() as tx:
        tx.conn.execute(sa.text("ALTER TABLE outbox RENAME TO gone"))
    assert pacs.report_commitment(pacs.commitments[0], listener) == scp.PROCESSING_FAILURE


def test_we_never_commit_ourselves(pacs: Pacs, listener: Destination) -> None:
    information = Dataset()
    information.TransactionUID = "1.2.3"
    assert pacs.n_event_report(information, listener, 1, as_scp=False) is None
    ae = AE(ae_title="ANYONE")
    ae.add_requested_context(STORAGE_COMMITMENT)
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate(listener.host, listener.port, ae_title=listener.ae_title)
    assert [context.abstract_syntax for context in assoc.rejected_contexts] == [STORAGE_COMMITMENT]
    assert assoc.send_c_echo().Status == 0
    assoc.release()
