"""A disk that fills up, and each role asked to end: the orderly half of what may happen."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_io import scu
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.errors import DestinationUnavailable
from dicom_io.scu import SendObject
from tests.chaos import pacs
from tests.chaos.run import tiny_bundle
from tests.chaos.site import ROLES, Site
from tests.support import dicom
from tests.support.outbox import part_10
from tests.support.system import wait_for
from worker.receive import OUT_OF_RESOURCES, SUCCESS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
ENDS_WITHIN_S = 60.0  # Program.end raises beyond it; what a supervisor waits before it kills
CUT_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("orderly") / "site"
    settings = {"STUDY_SETTLE_S": 1}
    with Site(folder, "postgresql", bundle=tiny_bundle(), settings=settings) as made:
        yield made


def _item() -> tuple[str, SendObject]:
    """A study of one image: its UID, and what to send."""
    ds: Dataset = dicom.chest(pixels=dicom.chest_pixels(240), PatientAge="045Y")
    return str(ds.StudyInstanceUID), SendObject(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=part_10(ds),
    )


def _store(site: Site, item: SendObject) -> int | None:
    (result,) = scu.send([item], site.address, "SENDER")
    return result.status


def _stored(site: Site, item: SendObject) -> bool:
    try:
        return _store(site, item) == SUCCESS
    except DestinationUnavailable:
        return False


def _reported(site: Site) -> set[str]:
    """Studies whose report the PACS has."""
    files = pacs.kept_files(site.pacs_folder)
    return {str(dcmread(path, force=True).StudyInstanceUID) for path in files}


def test_a_full_disk_refuses_stores_and_stops_nothing_else(site: Site) -> None:
    if site.no_disk:
        pytest.skip(site.no_disk)
    (before, first), (after, second) = _item(), _item()
    assert _store(site, first) == SUCCESS
    site.fill_disk()
    try:
        assert _store(site, second) == OUT_OF_RESOURCES
        wait_for("the report of what was there", lambda: before in _reported(site), 120)
        assert _store(site, second) == OUT_OF_RESOURCES
        assert list((site.disk / "spool" / "tmp").iterdir()) == []
    finally:
        site.free_disk()
    assert _store(site, second) == SUCCESS
    wait_for("the report of what came then", lambda: after in _reported(site), 120)


def test_the_listener_lets_an_association_end_before_it_does(site: Site) -> None:
    (_, first), (study, second) = _item(), _item()
    program = site.programs["listener"]
    with scu.storing(
        [(first.sop_class_uid, EXPLICIT_VR_LITTLE_ENDIAN)], site.address, "SENDER"
    ) as peer:
        assert peer.store(first).status == SUCCESS
        program.held_down = True
        program.send(signal.SIGTERM)
        assert peer.store(second).status == SUCCESS
    assert program.wait(ENDS_WITHIN_S) == 0
    program.held_down = False
    wait_for("the report", lambda: study in _reported(site), 120)


@pytest.mark.parametrize("host", ["broker", "database", "pacs"])
def test_after_a_cut_cable_all_goes_on_by_itself(site: Site, host: str) -> None:
    if site.no_hosts:
        pytest.skip(site.no_hosts)
    (during, first), (after, second) = _item(), _item()
    site.network.cut(host)
    try:
        wait_for("the listener", lambda: host == "database" or _answers(site), 60)
        status = None if host == "database" else _store(site, first)
        time.sleep(CUT_S)
    finally:
        site.network.join(host)
    assert status in (SUCCESS, None)
    joined_at = time.monotonic()
    wait_for("a store", lambda: _stored(site, second), 60)
    wanted = {after} | ({during} if status == SUCCESS else set())
    wait_for("every report", lambda: wanted <= _reported(site), 120)
    print(f"{host}: {time.monotonic() - joined_at:.0f} s after the cable was back")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_asked_to_end_does_so_in_time_and_loses_nothing(
    site: Site, role: str
) -> None:
    wait_for("the listener", lambda: site.programs["listener"].pid)
    sent = [_item() for _ in range(8)]
    wait_for("a store", lambda: _answers(site), 60)
    assert [_store(site, item) for _, item in sent] == [SUCCESS] * len(sent)
    program = site.programs[role]
    assert program.end(ENDS_WITHIN_S) == 0
    program.held_down = False
    wait_for("every report", lambda: {study for study, _ in sent} <= _reported(site), 180)


def _answers(site: Site) -> bool:
    try:
        scu.echo(site.address, calling_ae_title="SENDER")
    except Exception:
        return False
    return True
