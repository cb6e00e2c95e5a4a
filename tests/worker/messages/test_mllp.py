"""The outbox against a real MLLP receiver that accepts, refuses, hangs, or is not there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hl7
import pytest

from dicom_io.destination import Destination, Tls
from tests.support.hl7_receiver import Hl7Receiver, hl7_receiver
from tests.support.outbox import Outbox
from tests.support.tls import make_certificate
from worker import deliver
from worker.destinations import DICOM_OBJECTS, MESSAGES, Recipient
from worker.messages import mllp
from worker.messages.address import MllpDestination, WebhookDestination


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Hl7Receiver]:
    with hl7_receiver(tmp_path) as made:
        yield made


def _recipient(port: int, name: str = "ris", **options: object) -> Recipient:
    address = MllpDestination(host="127.0.0.1", port=port)
    return Recipient(name=name, address=replace(address, **options), objects=MESSAGES)  # type: ignore[arg-type]


def _waiting(folder: Path, *recipients: Recipient) -> Outbox:
    waiting = Outbox(folder, *recipients)
    waiting.add_report(1)
    return waiting


def _control_ids(receiver: Hl7Receiver) -> list[str]:
    return [str(hl7.parse(text)["MSH.F10"]) for text in receiver.received]


def test_reports_leave_in_order_over_one_connection_and_are_sent_once(
    receiver: Hl7Receiver, tmp_path: Path
) -> None:
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    first, _ = waiting.add_report(1)
    waiting.add_report(2)
    assert deliver.deliver(waiting.services, "ris") == 3
    assert deliver.deliver(waiting.services, "ris") == 0
    messages = [hl7.parse(text) for text in receiver.received]
    assert [str(it["OBR.F25"]) for it in messages] == ["P", "C", "P"]
    assert first in receiver.received[1]
    assert len(set(_control_ids(receiver))) == 3
    assert {row["kind"] for row in waiting.deliveries()} == {"message"}
    assert {state for _, state, _, _ in waiting.states()} == {"sent"}


def test_an_error_in_the_message_is_final_and_its_text_is_not_kept(
    receiver: Hl7Receiver, tmp_path: Path
) -> None:
    receiver.answer("AE 207")
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    assert deliver.deliver(waiting.services, "ris") == 0
    ((_, state, attempts, error),) = waiting.states()
    assert (state, attempts, error) == ("failed", 1, "acknowledged with AE, error 207")


@pytest.mark.parametrize("answer", ["AR", "AR 207"])
def test_a_rejection_that_may_pass_is_tried_again_under_the_same_control_id(
    receiver: Hl7Receiver, tmp_path: Path, answer: str
) -> None:
    receiver.answer(answer)
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    for _ in range(10):  # more often than what is refused for good
        deliver.deliver(waiting.services, "ris")
        waiting.make_due()
    assert waiting.states()[0][1:3] == ("pending", 10)
    receiver.answer("AA")
    assert deliver.deliver(waiting.services, "ris") == 1
    assert len(_control_ids(receiver)) == 11
    assert len(set(_control_ids(receiver))) == len(set(receiver.received)) == 1


def test_a_rejected_message_does_not_hold_up_another_study(
    receiver: Hl7Receiver, tmp_path: Path
) -> None:
    receiver.answer("AR")
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    waiting.add_report(2)
    deliver.deliver(waiting.services, "ris")
    assert len(receiver.received) == 2


def test_a_message_type_that_the_receiver_never_takes_is_final(
    receiver: Hl7Receiver, tmp_path: Path
) -> None:
    receiver.answer("AR 200")
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    deliver.deliver(waiting.services, "ris")
    assert waiting.states()[0][1] == "failed"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("other", "acknowledges another message"),
        ("half", "no acknowledgement in time"),
        ("hang", "no acknowledgement in time"),
        ("drip", "no acknowledgement in time"),
        ("close", "the connection broke"),
        ("garbage", "no HL7 message"),
        ("twice", "no single MLLP block"),
        ("endless", "more than an acknowledgement"),
        ("XX", "unknown acknowledgement code"),
    ],
)
def test_what_is_no_acknowledgement_is_tried_again(
    receiver: Hl7Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    expected: str,
) -> None:
    monkeypatch.setattr(mllp, "ANSWER_WITHIN_S", 1.5)
    receiver.answer(answer)
    waiting = _waiting(tmp_path, _recipient(receiver.port))
    assert deliver.deliver(waiting.services, "ris") == 0
    ((_, state, _, error),) = waiting.states()
    assert state == "pending"
    assert error is not None
    assert expected in error
    receiver.answer("AA")
    waiting.make_due()
    assert deliver.deliver(waiting.services, "ris") == 1
    assert len(set(_control_ids(receiver))) == 1


def test_a_receiver_that_is_down_delays_no_other_and_gets_everything_when_it_is_back(
    receiver: Hl7Receiver, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with hl7_receiver(tmp_path / "other") as other:
        waiting = _waiting(tmp_path, _recipient(receiver.port), _recipient(other.port, "other"))
        receiver.stop()
        assert deliver.deliver(waiting.services, "ris") == 0
        assert deliver.deliver(waiting.services, "other") == 1
        assert waiting.states()[0][3] == "cannot connect"
        receiver.start()
        waiting.make_due()
        assert deliver.deliver(waiting.services, "ris") == 1


def test_over_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    with hl7_receiver(tmp_path, cert, key) as receiver:
        trusted = {"host": "localhost", "tls": Tls(ca_file=cert)}
        waiting = Outbox(
            tmp_path,
            _recipient(receiver.port, "trusted", **trusted),
            _recipient(receiver.port, "unknown", **(trusted | {"tls": Tls()})),
            _recipient(receiver.port, "another name", **(trusted | {"host": "127.0.0.1"})),
        )
        waiting.add_report(1)
        assert deliver.deliver(waiting.services, "trusted") == 1
        assert deliver.deliver(waiting.services, "unknown") == 0
        assert deliver.deliver(waiting.services, "another name") == 0
        errors = [error or "" for _, _, _, error in waiting.states()]
        assert errors[0] == ""
        assert all("TLS failed" in error for error in errors[1:])
        assert len(receiver.received) == 1


@pytest.mark.parametrize("was", ["an archive", "a webhook"])
def test_what_was_made_for_another_kind_of_destination_is_not_sent(
    receiver: Hl7Receiver, tmp_path: Path, was: str
) -> None:
    old: Destination | WebhookDestination = Destination(ae_title="A", host="h", port=1)
    if was == "a webhook":
        old = WebhookDestination(url="https://a.example/x", secret_file=tmp_path)
    objects = MESSAGES if was == "a webhook" else DICOM_OBJECTS
    waiting = Outbox(tmp_path, Recipient(name="ris", address=old, objects=objects))
    waiting.add_report(1)
    settings = waiting.services.settings
    now = settings.model_copy(update={"destinations": (_recipient(receiver.port),)})
    deliver.deliver(replace(waiting.services, settings=now), "ris")
    assert receiver.received == []
    assert "another kind of destination" in (waiting.states()[0][3] or "")
