"""What is superseded, withdrawn and erased, through `cxr-worker up` and its commands."""

import sqlite3
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_io.rejection import KEY_OBJECT_SELECTION
from tests.support import dicom
from tests.support.system import Pacs, System, wait_for


def _send(system: System, folder: Path, ds: Dataset) -> None:
    (result,) = system.send([dicom.write(ds, folder)])
    assert result.error is None


def _srs(pacs: Pacs, study: str) -> list[Dataset]:
    return [ds for ds in pacs.reports(study) if ds.Modality == "SR"]


def _predecessor(report: Dataset) -> str | None:
    if "PredecessorDocumentsSequence" not in report:
        return None
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def _evidence(report: Dataset) -> set[str]:
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    return {
        str(item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def test_a_study_is_superseded_withdrawn_and_erased(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    study = str(generate_uid())
    frontal = dicom.chest(study)
    _send(system, tmp_path, frontal)
    _reported(system, pacs, study, 1)

    _send(system, tmp_path, frontal)  # the same again: nothing new
    frontal.PatientName = "Corrected^Name"
    _send(system, tmp_path, frontal)
    _reported(system, pacs, study, 2)

    lateral = dicom.chest(study, ViewPosition="LL", pixels=dicom.chest_pixels(seed=3))
    _send(system, tmp_path, lateral)
    _reported(system, pacs, study, 3)

    late = dicom.chest(study, pixels=dicom.chest_pixels(seed=4))
    _send(system, tmp_path, late)
    _reported(system, pacs, study, 4)

    system.wait_until_delivered(study)  # the pictures come after the report
    reports = _srs(pacs, study)
    uids = [str(report.SOPInstanceUID) for report in reports]
    assert [_predecessor(report) for report in reports] == [None, *uids[:3]]
    assert [str(report.PatientName) for report in reports][1:] == ["Corrected^Name"] * 3
    first = {frontal.SOPInstanceUID}
    pictures = {str(picture.SOPInstanceUID) for picture in pacs.pictures(study)}
    assert [_evidence(report) - pictures for report in reports] == [
        first,
        first,
        first | {lateral.SOPInstanceUID},
        first | {lateral.SOPInstanceUID, late.SOPInstanceUID},
    ]

    _retract(system, pacs, study)
    _keep_back(system, pacs, study, tmp_path)
    _reprocess(system, pacs, study, uids)
    _forget(system, study)


def _reported(system: System, pacs: Pacs, study: str, count: int) -> None:
    def arrived() -> bool:
        row = system.study(study)
        assert row is not None
        return row["state"] == "reported" and len(_srs(pacs, study)) == count

    wait_for(f"report {count}", arrived)


def _retract(system: System, pacs: Pacs, study: str) -> None:
    done = system.command("retract", study, "--reason", "safety")
    assert done.returncode == 0, done.stderr
    assert "a rejection note waits to be sent" in done.stdout

    def notes() -> list[Dataset]:
        received = [ds for ds in pacs.received if ds.StudyInstanceUID == study]
        return [ds for ds in received if ds.SOPClassUID == KEY_OBJECT_SELECTION]

    (note,) = wait_for("the note", notes)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    sent = {str(ds.SOPInstanceUID) for ds in pacs.received if ds.StudyInstanceUID == study}
    assert _evidence(note) == sent - {str(note.SOPInstanceUID)}
    again = system.command("retract", study, "--reason", "safety")
    assert (again.returncode, again.stdout[:17]) == (0, "retracted already")
    shown = system.command("show", study).stdout
    assert "no report of it is delivered" in shown
    row = system.study(study)
    assert row is not None
    assert row["retracted_at"] is not None


def _keep_back(system: System, pacs: Pacs, study: str, folder: Path) -> None:
    """What comes after a retraction is reported, and not delivered."""
    delivered = len(_srs(pacs, study))
    before = system.study(study)
    _send(system, folder, dicom.chest(study, pixels=dicom.chest_pixels(seed=5)))

    def made() -> bool:
        row = system.study(study)
        assert row is not None
        assert before is not None
        return row["sr_sop_instance_uid"] != before["sr_sop_instance_uid"]

    wait_for("the report that stays", made)
    assert len(_srs(pacs, study)) == delivered


def _reprocess(system: System, pacs: Pacs, study: str, uids: list[str]) -> None:
    done = system.command("reprocess", study, "--deliver")
    assert done.returncode == 0, done.stderr
    assert "4 images of 1 studies" in done.stdout
    _reported(system, pacs, study, 5)
    newest = _srs(pacs, study)[-1]
    assert newest.SOPInstanceUID not in uids
    row = system.study(study)
    assert row is not None
    assert (row["retracted_at"], row["analysed_count"]) == (None, 3)


def _forget(system: System, study: str) -> None:
    path = system.home / "cxr.db"
    files = set((system.home / "spool" / "files").glob("*/*.dcm"))
    asked = system.command("forget", study)
    assert asked.returncode == 1
    assert "`cxr-worker retract` first takes those back" in asked.stdout
    assert system.study(study) is not None
    done = system.command("forget", study, "--yes")
    assert done.returncode == 0, done.stderr
    assert system.study(study) is None
    with sqlite3.connect(path) as conn:
        assert conn.execute("SELECT count(*) FROM erased_files").fetchone() == (0,)
        kept = conn.execute(
            "SELECT instance_count, file_count FROM erasures WHERE study_instance_uid = ?", [study]
        ).fetchone()
    assert kept is not None
    gone = files - set((system.home / "spool" / "files").glob("*/*.dcm"))
    assert len(gone) == kept[1] >= 4
    assert system.command("forget", study, "--yes").returncode == 2


def test_a_destination_is_held_and_released(system: System, pacs: Pacs, tmp_path: Path) -> None:
    assert system.command("destination", "hold", "NOBODY@h:1").returncode == 2
    assert system.command("destination", "hold", pacs.destination).returncode == 0
    ds = dicom.chest()
    _send(system, tmp_path, ds)
    system.wait_until_reported(ds.StudyInstanceUID)
    assert "by command" in system.command("destination", "list").stdout
    assert pacs.reports(ds.StudyInstanceUID) == []
    assert system.command("destination", "release", pacs.destination).returncode == 0
    system.wait_until_delivered(ds.StudyInstanceUID)
    assert pacs.destination in system.command("destination", "list").stdout
    assert system.command("retry", "--all").returncode == 0
    for mistaken in ([], ["--study", "9.9"], ["--destination", "NOBODY@h:1"]):
        assert system.command("retry", *mistaken).returncode == 2


def test_the_listener_sweeps_the_files_of_a_study_that_was_erased_elsewhere(
    system: System, tmp_path: Path
) -> None:
    from db import erasure

    ds = dicom.chest()
    _send(system, tmp_path, ds)
    system.wait_until_delivered(ds.StudyInstanceUID)
    with system.database.begin() as tx:
        names = erasure.erase(tx, ds.StudyInstanceUID, erased_by="a machine without the spool")
    assert names
    files = [system.home / "spool" / name for name in names]
    wait_for("the sweep", lambda: not any(path.exists() for path in files), 30)
    assert system.study(ds.StudyInstanceUID) is None
