"""kill -9 of every process while studies are under way: nothing lost, nothing twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from tests.support import dicom
from tests.support.system import Pacs, System, lives, running, wait_for

STUDIES = 20
ROLES = {
    "inference": ("work", "--role", "inference"),
    "dicom": ("work", "--role", "dicom"),
    "celery": ("worker.roles",),
    "broker": ("valkey",),
    "listener": ("worker.cli", "listen"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[System, Pacs]]:
    settings = {}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = request.getfixturevalue("postgresql_url")
    with running(tmp_path / "home", **settings) as pair:
        yield pair


def _send_studies(system: System, folder: Path) -> dict[str, set[str]]:
    """Studies of two images each: study UID to the SOP Instance UIDs that were acknowledged."""
    objects = []
    for number in range(STUDIES):
        study = generate_uid()
        objects += [dicom.chest(study, pixels=dicom.chest_pixels(seed=number)) for _ in range(2)]
    results = system.send([dicom.write(ds, folder) for ds in objects])
    assert all(result.status == 0 for result in results)
    sent: dict[str, set[str]] = {}
    for ds in objects:
        sent.setdefault(ds.StudyInstanceUID, set()).add(ds.SOPInstanceUID)
    return sent


def _assert_everything_arrived(system: System, pacs: Pacs, sent: dict[str, set[str]]) -> None:
    for study, uids in sent.items():
        row = system.wait_until_delivered(study, within_s=150)
        assert (row["image_count"], row["analysed_count"]) == (2, 2)
        newest = pacs.reports(study)[-1]
        assert newest.SOPInstanceUID == row["sr_sop_instance_uid"]
        evidence = newest.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        covered = {
            item.ReferencedSOPInstanceUID
            for series in evidence
            for item in series.ReferencedSOPSequence
            if item.ReferencedSOPClassUID != SecondaryCaptureImageStorage
        }
        assert covered == uids
    with system.database.read() as tx:
        twice = "SELECT study_id, revision FROM reports GROUP BY 1, 2 HAVING count(*) > 1"
        assert tx.conn.execute(sa.text(twice)).all() == []
        waiting = "SELECT count(*) FROM pixels"
        assert tx.conn.execute(sa.text(waiting)).scalar_one() == 0


@pytest.mark.timeout(400)
def test_every_role_may_be_killed_while_studies_are_under_way(
    started: tuple[System, Pacs], tmp_path: Path
) -> None:
    system, pacs = started
    sent = _send_studies(system, tmp_path)
    for words in ROLES.values():
        wait_for(f"{words} to run", lambda words=words: system.processes(*words))
        system.kill_role(*words)
        time.sleep(0.5)
    _assert_everything_arrived(system, pacs, sent)


@pytest.mark.timeout(300)
def test_a_killed_up_leaves_no_process_and_the_next_one_finishes_its_work(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "home") as (system, pacs):
        sent = _send_studies(system, tmp_path)
        wait_for("the celery processes", lambda: len(system.processes("worker.roles")) >= 3)
        children = system.processes()
        system.kill()
        wait_for("its children to end", lambda: not any(lives(child.pid) for child in children), 30)
        system.start()
        _assert_everything_arrived(system, pacs, sent)
