"""The outbox against a real storage SCP that accepts, refuses, or is not there."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import build_context

from db import deliveries, destinations
from db.claims import DELIVER, due_destinations
from db.tables import ObjectKind, objects, outbox
from db.tables import destinations as destinations_table
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_io.rejection import Reason
from dicom_io.sr import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR
from tests.support import dicom
from tests.support.outbox import Outbox
from tests.support.peers import free_port
from tests.support.system import Pacs, lone_pacs, wait_for
from worker import deliver, patience
from worker.destinations import parse
from worker.retract import retract
from worker.services import Services

pacs = pytest.fixture(lone_pacs)


@pytest.fixture
def old_pacs() -> Iterator[Pacs]:
    """Accepts Comprehensive SR and Secondary Capture, and those in Implicit VR alone."""
    classes = (COMPREHENSIVE_SR, dicom.SECONDARY_CAPTURE)
    made = Pacs([build_context(uid, IMPLICIT_VR_LITTLE_ENDIAN) for uid in classes])
    yield made
    made.close()


def _uids(pacs: Pacs) -> list[str]:
    return [str(ds.SOPInstanceUID) for ds in pacs.received]


def test_all_that_is_due_leaves_over_one_association_in_order(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    uids = [uid for number in range(3) for uid in waiting.add_report(number)]
    assert deliver.deliver(waiting.services, pacs.destination) == 6
    assert _uids(pacs) == uids
    assert pacs.associations == 1
    assert {state for _, state, _, _ in waiting.states()} == {"sent"}
    assert deliver.deliver(waiting.services, pacs.destination) == 0


def test_a_destination_that_is_down_delays_no_other_and_is_tried_again(
    pacs: Pacs, tmp_path: Path
) -> None:
    dead = f"DEAD@127.0.0.1:{free_port()}"
    waiting = Outbox(tmp_path, dead, pacs.destination)
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, dead) == 0
    assert deliver.deliver(waiting.services, pacs.destination) == 2
    of_dead = waiting.states()[0]
    assert [row["state"] for row in waiting.deliveries()] == ["pending", "sent"] * 2
    assert of_dead[3] is not None
    assert "cannot connect" in of_dead[3]
    assert deliver.deliver(waiting.services, dead) == 0  # not due before its wait is over
    assert waiting.states()[0][2] == 1
    waiting.make_due()
    deliver.deliver(waiting.services, dead)
    assert waiting.states()[0][2] == 2


def test_a_refused_object_is_tried_some_times_and_then_given_up(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    pacs.refused = {COMPREHENSIVE_3D_SR: 0xA900}
    for _ in range(patience.REFUSALS_MAX):
        assert waiting.states()[0][1] == "pending"
        assert pacs.received == []  # its picture waits for it
        waiting.make_due()
        deliver.deliver(waiting.services, pacs.destination)
    (report, picture) = waiting.deliveries()
    assert (report["state"], report["attempts"]) == ("failed", patience.REFUSALS_MAX)
    assert report["error"] == "refused with status 0xA900"
    assert picture["state"] == "pending"
    waiting.make_due()
    assert deliver.deliver(waiting.services, pacs.destination) == 1


def test_days_without_an_answer_do_not_count_as_refusals(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    with waiting.database.begin() as tx:
        tx.conn.execute(sa.update(outbox).values(attempts=100))
    pacs.status = 0xA700
    deliver.deliver(waiting.services, pacs.destination)
    assert {row["state"] for row in waiting.deliveries()} == {"pending"}


def test_a_destination_without_room_is_waited_for_however_often_it_says_so(
    pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    pacs.status = 0xA701
    for _ in range(2 * patience.REFUSALS_MAX):
        waiting.make_due()
        deliver.deliver(waiting.services, pacs.destination)
    report = waiting.deliveries()[0]
    assert (report["state"], report["refusals"]) == ("pending", 0)
    assert report["error"] == "refused with status 0xA701"
    pacs.status = 0x0000
    waiting.make_due()
    assert deliver.deliver(waiting.services, pacs.destination) == 2


def test_a_study_that_waits_delays_no_other(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    first, second = waiting.add_report(1), waiting.add_report(2)
    broken = sa.update(objects).where(objects.c.sop_instance_uid == first[0])
    with waiting.database.begin() as tx:
        tx.conn.execute(broken.values(sop_class_uid="1.2.3.4"))  # no peer takes it
    assert deliver.deliver(waiting.services, pacs.destination) == 2
    assert _uids(pacs) == list(second)
    assert [row["error"] for row in waiting.deliveries(1)] == [
        "destination does not accept 1.2.3.4 as Explicit VR Little Endian",
        "an earlier object of the study waits",
    ]


def test_a_slow_destination_is_left_after_a_while_and_what_is_left_counts_as_untried(
    pacs: Pacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    uids = [uid for number in range(1, 4) for uid in waiting.add_report(number)]
    monkeypatch.setattr(deliver, "DELIVERING_S", 0.5)
    pacs.delay_s = 0.3
    sent = deliver.deliver(waiting.services, pacs.destination)
    assert 1 <= sent < len(uids)  # a slow machine is as good as a slow destination
    found = [state[1:3] for state in waiting.states()]
    assert found == [("sent", 1)] * sent + [("pending", 0)] * (len(uids) - sent)
    assert waiting.woken == [("deliver", pacs.destination)]  # at the end of the queue
    monkeypatch.setattr(deliver, "DELIVERING_S", 60.0)
    assert deliver.deliver(waiting.services, pacs.destination) == len(uids) - sent
    assert _uids(pacs) == uids
    assert len(waiting.woken) == 1


def test_one_worker_at_a_time_delivers_to_a_destination(pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    pacs.may_answer.clear()
    first = threading.Thread(target=deliver.deliver, args=(waiting.services, pacs.destination))
    first.start()
    wait_for("the first", lambda: pacs.associations == 1)
    waiting.add_report(2)
    with waiting.database.read() as tx:
        assert due_destinations(tx, DELIVER) == []  # so that no messages heap up
    assert deliver.deliver(waiting.services, pacs.destination) == 0
    pacs.may_answer.set()
    first.join()
    assert waiting.woken == [("deliver", pacs.destination)]  # for what came meanwhile
    with waiting.database.read() as tx:
        assert due_destinations(tx, DELIVER) == [pacs.destination]
    assert deliver.deliver(waiting.services, pacs.destination) == 2
    assert pacs.associations == 2


def test_a_worker_that_was_killed_while_it_delivered_is_waited_for_shortly(
    pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    with waiting.database.begin() as tx:
        assert destinations.engage(tx, pacs.destination, for_s=deliver.BUSY_MAX_S)
    assert deliver.deliver(waiting.services, pacs.destination) == 0
    with waiting.database.begin() as tx:
        tx.conn.execute(sa.update(destinations_table).values(busy_until=tx.now))
    assert deliver.deliver(waiting.services, pacs.destination) == 2


def test_what_nobody_foresaw_is_said_and_tried_again(
    pacs: Pacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    monkeypatch.setattr(deliver, "_store", Mock(side_effect=ValueError("Doe^Jane")))
    assert deliver.deliver(waiting.services, pacs.destination) == 0
    report, picture = waiting.deliveries()
    assert (report["state"], report["attempts"]) == ("pending", 1)
    assert report["error"].startswith("ValueError")
    assert "Doe" not in report["error"]
    assert picture["error"] == "an earlier object of the study waits"
    monkeypatch.undo()
    waiting.add_report(2)
    assert deliver.deliver(waiting.services, pacs.destination) == 2  # of the other study


def test_a_destination_that_is_slow_to_answer_the_request_gets_something_each_time(
    pacs: Pacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    plain = deliver._peer

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return plain(*arguments)

    monkeypatch.setattr(deliver, "_peer", slow)
    monkeypatch.setattr(deliver, "DELIVERING_S", 0.2)
    assert deliver.deliver(waiting.services, pacs.destination) >= 1


def test_messages_of_a_name_that_means_a_pacs_now_are_refused_one_by_one(
    pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    with waiting.database.begin() as tx:
        message = {"sop_class_uid": "", "transfer_syntax_uid": "", "payload": b"MSH|"}
        tx.conn.execute(sa.update(objects).values(message))
    assert deliver.deliver(waiting.services, pacs.destination) == 0
    first = waiting.deliveries()[0]
    assert first["refusals"] == 1
    assert "made for another kind of destination" in first["error"]
    assert pacs.associations == 1


def test_a_destination_that_is_no_longer_listed_keeps_its_reports(tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, "GONE@127.0.0.1:104")
    waiting.add_report(1)
    unlisted = Outbox(tmp_path / "other")
    services = Services(**{**vars(unlisted.services), "database": waiting.database})
    deliver.deliver(services, "GONE@127.0.0.1:104")
    assert [(row["state"], row["error"]) for row in waiting.deliveries()] == [
        ("pending", "not among the destinations")
    ] * 2


def test_a_destination_that_is_held_gets_nothing_until_it_is_released(
    pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    waiting.add_report(1)
    with waiting.database.begin() as tx:
        assert destinations.hold(tx, pacs.destination)
        assert not destinations.hold(tx, pacs.destination)
    assert deliver.deliver(waiting.services, pacs.destination) == 0
    assert pacs.associations == 0
    with waiting.database.begin() as tx:
        assert destinations.release(tx, pacs.destination)
        assert not destinations.release(tx, pacs.destination)
    assert deliver.deliver(waiting.services, pacs.destination) == 2


def test_what_the_settings_hold_is_released_when_they_do_not_any_more(
    pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination)
    with waiting.database.begin() as tx:
        destinations.hold(tx, "BY HAND@h:1")
        destinations.apply_settings(tx, [pacs.destination])
        assert destinations.holds(tx).keys() == {pacs.destination, "BY HAND@h:1"}
        destinations.apply_settings(tx, [])
        assert destinations.holds(tx).keys() == {"BY HAND@h:1"}


def test_where_only_comprehensive_sr_is_taken_the_report_is_converted_once(
    old_pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, old_pacs.destination)
    uid, picture_uid = waiting.add_report(1)
    old_pacs.status = 0xA700
    deliver.deliver(waiting.services, old_pacs.destination)
    waiting.make_due()
    old_pacs.status = 0x0000
    assert deliver.deliver(waiting.services, old_pacs.destination) == 2
    report, picture = old_pacs.received
    assert report.SOPClassUID == COMPREHENSIVE_SR
    assert report.SOPInstanceUID != uid
    assert picture.SOPInstanceUID == picture_uid
    (row, _) = waiting.deliveries()
    assert (row["sop_instance_uid"], row["state"]) == (report.SOPInstanceUID, "sent")
    with waiting.database.read() as tx:
        kept = deliveries.payload(tx, row["object_id"])
        made = tx.conn.execute(sa.select(sa.func.count()).select_from(objects)).scalar_one()
    assert made == 3
    assert kept is not None
    stored = dcmread(BytesIO(kept))
    assert _without_meta(stored) == _without_meta(report)


def test_a_report_that_is_withdrawn_before_it_was_converted_never_leaves(
    old_pacs: Pacs, tmp_path: Path
) -> None:
    """The note names it as it was made: in another class nothing would reject it."""
    waiting = Outbox(tmp_path, old_pacs.destination)
    waiting.add_report(1)
    with waiting.database.begin() as tx:  # it could not be reached so far
        tx.conn.execute(sa.update(outbox).values(attempts=1))
    retract(waiting.services.settings, waiting.database, "1.2.1", Reason.QUALITY)
    for _ in range(3):
        waiting.make_due()
        deliver.deliver(waiting.services, old_pacs.destination)
    assert COMPREHENSIVE_SR not in {ds.SOPClassUID for ds in old_pacs.received}
    report = waiting.deliveries()[0]
    assert (report["state"], report["error"]) == ("failed", "withdrawn before it was sent")


def test_a_picture_in_implicit_vr_has_the_same_pixels(old_pacs: Pacs, tmp_path: Path) -> None:
    waiting = Outbox(tmp_path, old_pacs.destination)
    waiting.add_report(1)
    deliver.deliver(waiting.services, old_pacs.destination)
    picture = old_pacs.received[1]
    assert picture.file_meta.TransferSyntaxUID == IMPLICIT_VR_LITTLE_ENDIAN
    with waiting.database.read() as tx:
        kept = deliveries.payload(tx, waiting.deliveries()[1]["object_id"])
    assert kept is not None
    stored = dcmread(BytesIO(kept))
    assert stored.file_meta.TransferSyntaxUID == EXPLICIT_VR_LITTLE_ENDIAN
    assert picture.PixelData == stored.PixelData
    assert _without_meta(picture) == _without_meta(stored)


def test_a_converted_report_names_its_predecessor_in_both_classes(
    pacs: Pacs, old_pacs: Pacs, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, pacs.destination, old_pacs.destination)
    first, _ = waiting.add_report(1)
    second, _ = waiting.add_report(1)
    for peer in (pacs, old_pacs):
        assert deliver.deliver(waiting.services, peer.destination) == 4
    assert _predecessors(pacs.received[2]) == [(COMPREHENSIVE_3D_SR, first)]
    earlier, _, later, _ = old_pacs.received
    assert _predecessors(later) == [
        (COMPREHENSIVE_3D_SR, first),
        (COMPREHENSIVE_SR, earlier.SOPInstanceUID),
    ]
    assert second in _uids(pacs)


@pytest.mark.parametrize("refusal", ["by setting", "by status"])
def test_the_class_follows_the_setting_and_the_destinations_own_word(
    refusal: str, pacs: Pacs, tmp_path: Path
) -> None:
    recipient = parse(pacs.destination)
    if refusal == "by setting":
        recipient = replace(recipient, sr_class="comprehensive")
    else:
        pacs.refused = {COMPREHENSIVE_3D_SR: deliver.SOP_CLASS_NOT_SUPPORTED}
    waiting = Outbox(tmp_path, recipient)
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, pacs.destination) == 2
    assert pacs.received[0].SOPClassUID == COMPREHENSIVE_SR


def test_a_destination_gets_only_the_objects_it_is_meant_to_get(pacs: Pacs, tmp_path: Path) -> None:
    recipient = replace(parse(pacs.destination), objects=frozenset({ObjectKind.SR}))
    waiting = Outbox(tmp_path, recipient)
    uid, _ = waiting.add_report(1)
    assert deliver.deliver(waiting.services, pacs.destination) == 1
    assert _uids(pacs) == [uid]


def test_waits_double_up_to_an_hour() -> None:
    waits = [patience.backoff_s(attempts) for attempts in range(1, 30)]
    assert 3.75 <= waits[0] <= 6.25
    assert 7.5 <= waits[1] <= 12.5
    assert all(wait <= 4500 for wait in waits)
    assert min(waits[12:]) >= 2700


def _predecessors(ds: Dataset) -> list[tuple[str, str]]:
    (study,) = ds.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    return [
        (it.ReferencedSOPClassUID, it.ReferencedSOPInstanceUID)
        for it in series.ReferencedSOPSequence
    ]


def _without_meta(ds: Dataset) -> Dataset:
    return Dataset({element.tag: element for element in ds})
