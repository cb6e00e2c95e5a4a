"""The whole way through `cxr-worker up`, by real DIMSE, with every kind of bad input."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE

from db import latencies
from dicom_io import scu
from dicom_io.sr_text import as_text
from tests.support import dicom
from tests.support.system import Pacs, System, running, wait_for

RUBBISH = b"\xff\xfe\x00\x01not a data set" * 50


def _send(system: System, folder: Path, *objects: Dataset) -> None:
    results = system.send([dicom.write(ds, folder) for ds in objects])
    assert [result.error for result in results] == [None] * len(objects)


def _text(report: Dataset) -> str:
    buffer = BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    return as_text(buffer.getvalue())


def test_a_chest_comes_back_as_a_report_with_its_probability(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    ds = dicom.chest()
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    assert row["state"] == "reported"
    assert row["intended_use"] == "inside"
    assert 0 <= row["probability"] <= 1
    (report,) = pacs.reports(ds.StudyInstanceUID)
    assert report.SOPInstanceUID == row["sr_sop_instance_uid"]
    assert report.PatientName == ds.PatientName
    assert f"{row['probability']:.1%}".replace("%", " %") in _text(report)
    assert ds.SOPInstanceUID in _text(report)


def test_every_stage_of_its_way_is_timed(system: System, tmp_path: Path) -> None:
    ds = dicom.chest()
    with system.database.read() as tx:
        since = tx.now
    _send(system, tmp_path, ds)
    system.wait_until_delivered(ds.StudyInstanceUID)
    with system.database.read() as tx:
        bounds_s = [3600.0]
        stages = latencies.count_stages(tx, bounds_s, since=since, until=tx.now)
        turnaround = latencies.count_turnaround(tx, bounds_s, since=since, until=tx.now)
    assert {name for name, counted in stages.items() if counted.within[0]} == set(latencies.STAGES)
    assert turnaround.within[0] >= 1
    assert turnaround.sum_s > 0


def test_an_adult_is_analysed_but_no_probability_is_delivered(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    ds = dicom.chest(PatientAge="045Y")
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    assert row["intended_use"] == "outside"
    assert row["probability"] is not None
    (report,) = pacs.reports(ds.StudyInstanceUID)
    assert "Certainty of Finding" not in _text(report)
    assert pacs.pictures(ds.StudyInstanceUID) == []
    assert "outside the intended use" in _text(report)


def test_a_real_adult_chest_is_not_taken_for_something_else(system: System, tmp_path: Path) -> None:
    ds = dicom.real_copy("RG1_UNCR.dcm", PatientAge="004Y")
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    instance = system.instances(ds.StudyInstanceUID)[ds.SOPInstanceUID]
    assert instance["state"] == "predicted"
    assert instance["ood_score"] < 1
    assert row["intended_use"] == "inside"


def test_a_suspicious_image_comes_back_with_a_picture_that_the_report_refers_to(
    tmp_path: Path,
) -> None:
    # Every image is one to review, whatever the model thinks of it.
    with running(tmp_path / "home", BAND_REVIEW_FROM=1e-6) as (system, pacs):
        _has_a_picture(system, pacs, tmp_path)


def _has_a_picture(system: System, pacs: Pacs, tmp_path: Path) -> None:
    ds = dicom.real_copy("RG1_UNCR.dcm", PatientAge="004Y")
    study = ds.StudyInstanceUID
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(study)
    assert row["band"] == "review"
    (report,) = pacs.reports(study)
    (picture,) = pacs.pictures(study)
    assert f"Illustration of ROI: {picture.SOPInstanceUID}" in _text(report)
    assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
    assert picture.pixel_array.std() > 10
    assert picture.SeriesInstanceUID not in (ds.SeriesInstanceUID, report.SeriesInstanceUID)
    lateral = dicom.chest(study, ViewPosition="LL", PatientAge="004Y")
    _send(system, tmp_path, lateral)
    wait_for("the second report", lambda: len(pacs.reports(study)) == 2, 60)
    newest = pacs.reports(study)[-1]
    assert f"Illustration of ROI: {picture.SOPInstanceUID}" in _text(newest)  # not drawn again
    assert len(pacs.pictures(study)) == 1


def test_a_picture_unlike_the_training_images_is_outside_and_the_report_says_why(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    cut = dicom.chest_pixels(512)[:380, :380]
    ds = dicom.chest(pixels=np.ascontiguousarray(cut))
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    instance = system.instances(ds.StudyInstanceUID)[ds.SOPInstanceUID]
    assert instance["state"] == "predicted"
    assert instance["ood_score"] > 1
    assert row["intended_use"] == "outside"
    (report,) = pacs.reports(ds.StudyInstanceUID)
    assert "unlike those that the model was trained on" in _text(report)


def _cut_pixels() -> Dataset:
    ds = dicom.chest()
    ds.PixelData = ds.PixelData[:1000]
    return ds


def _in_colour() -> Dataset:
    grey = (dicom.chest_pixels() // 16).astype(np.uint8)
    return dicom.chest(
        pixels=np.repeat(grey[..., None], 3, axis=2),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
    )


CASES = {
    "lateral": (dicom.chest(ViewPosition="LL"), "rejected", "lateral view"),
    "hand": (dicom.chest(BodyPartExamined="HAND"), "rejected", "body part HAND"),
    "modality": (dicom.chest(Modality="CT"), "rejected", "modality CT"),
    "no pixels": (dicom.chest(PixelData=None), "rejected", "no pixel data"),
    "multi-frame": (dicom.chest(NumberOfFrames=2), "rejected", "multi-frame"),
    "1x1": (dicom.chest(pixels=np.zeros((1, 1), np.uint16)), "rejected", "too small (1x1)"),
    "constant": (
        dicom.chest(pixels=np.full((256, 256), 7, np.uint16)),
        "rejected",
        "constant image",
    ),
    "ankle said to be a chest": (
        dicom.real_copy("RG3_UNCR.dcm", BodyPartExamined="CHEST", PatientAge="004Y"),
        "rejected",
        "unlike the training images",
    ),
    "cut pixels": (_cut_pixels(), "failed", "truncated pixel data"),
    "colour": (_in_colour(), "predicted", None),
}


@pytest.fixture(scope="module")
def cases_sent(
    system_and_pacs: tuple[System, Pacs], tmp_path_factory: pytest.TempPathFactory
) -> System:
    """All the cases on one association, good and bad mixed."""
    system, _ = system_and_pacs
    _send(system, tmp_path_factory.mktemp("cases"), *(ds for ds, _, _ in CASES.values()))
    return system


@pytest.mark.parametrize("case", CASES)
def test_every_input_ends_in_a_row_with_a_state_and_a_reason(cases_sent: System, case: str) -> None:
    ds, state, reason = CASES[case]
    cases_sent.wait_until_reported(ds.StudyInstanceUID)
    row = cases_sent.instances(ds.StudyInstanceUID)[ds.SOPInstanceUID]
    assert (row["state"], row["reason"]) == (state, reason)


def test_a_file_that_ends_early_fails_as_truncated(system: System, tmp_path: Path) -> None:
    ds = dicom.chest()
    path = dicom.write(ds, tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    (result,) = system.send([path])
    assert result.status == 0x0000
    system.wait_until_reported(ds.StudyInstanceUID)
    row = system.instances(ds.StudyInstanceUID)[ds.SOPInstanceUID]
    assert (row["state"], row["reason"]) == ("failed", "truncated file")


def test_a_study_without_patient_attributes_still_gets_its_report(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    missing = dict.fromkeys(
        [
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "PatientAge",
            "AccessionNumber",
            "StudyID",
            "ReferringPhysicianName",
            "PatientOrientation",
            "ImagerPixelSpacing",
        ]
    )
    ds = dicom.chest(**missing)
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    assert (row["patient_id"], row["intended_use"]) == (None, "unknown")
    assert len(pacs.reports(ds.StudyInstanceUID)) == 1


def test_the_same_instance_twice_gives_one_row_and_one_report(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    ds = dicom.chest()
    _send(system, tmp_path, ds)
    first = system.wait_until_delivered(ds.StudyInstanceUID)
    _send(system, tmp_path, ds)
    assert system.study(ds.StudyInstanceUID) == first
    assert len(pacs.reports(ds.StudyInstanceUID)) == 1


def test_a_presentation_state_and_our_own_report_change_nothing(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    study = generate_uid()
    image, state = dicom.chest(study), dicom.presentation_state(study)
    _send(system, tmp_path, image, state)
    system.wait_until_delivered(study)
    (report,) = pacs.reports(study)
    _send(system, tmp_path, report)  # a PACS that routes everything sends it back
    after = system.wait_until_reported(study)
    assert after["sr_sop_instance_uid"] == report.SOPInstanceUID
    assert len(pacs.reports(study)) == 1
    found = system.instances(study)
    assert found[state.SOPInstanceUID]["reason"] == "not an image"
    assert found[report.SOPInstanceUID]["reason"] == "our own report"
    assert (after["image_count"], after["analysed_count"]) == (1, 1)


def test_a_late_image_makes_a_new_report_that_names_the_old_one(
    system: System, pacs: Pacs, tmp_path: Path
) -> None:
    study = generate_uid()
    _send(system, tmp_path, dicom.chest(study))
    first = system.wait_until_delivered(study)
    _send(system, tmp_path, dicom.chest(study, pixels=dicom.chest_pixels(seed=7)))

    def superseded() -> bool:
        row = system.study(study)
        assert row is not None
        return bool(
            row["sr_sop_instance_uid"] != first["sr_sop_instance_uid"] and row["delivered_at"]
        )

    wait_for("the second report", superseded)
    old, new = pacs.reports(study)
    predecessor = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_what_is_not_dicom_is_refused_and_the_association_lives_on(
    system: System, tmp_path: Path
) -> None:
    good, bad = dicom.chest(), dicom.chest()
    broken = dicom.write(bad, tmp_path)
    content = broken.read_bytes()
    first_element = content.index(b"\x08\x00\x05\x00")
    broken.write_bytes(content[:first_element] + RUBBISH)
    refused, accepted = system.send([broken, dicom.write(good, tmp_path)])
    assert refused.status == 0xC000
    assert accepted.status == 0x0000
    system.wait_until_reported(good.StudyInstanceUID)
    query = sa.text("SELECT state, reason FROM instance_results WHERE sop_instance_uid = :uid")
    with system.database.read() as tx:
        state, reason = tx.conn.execute(query, {"uid": bad.SOPInstanceUID}).one()
    assert state == "failed"
    assert reason


def test_an_echo_is_answered_and_a_wrong_called_title_is_not(system: System) -> None:
    scu.echo(system.address, calling_ae_title="ANYONE")
    ae = AE(ae_title="ANYONE")
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate(system.address.host, system.address.port, ae_title="SOMEONE_ELSE")
    assert assoc.is_rejected


def test_the_commands_answer_from_the_same_database(system: System, tmp_path: Path) -> None:
    ds = dicom.chest(AccessionNumber="FIND-ME")
    _send(system, tmp_path, ds)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    (found,) = system.results("--accession", "FIND-ME")
    assert found["study_instance_uid"] == ds.StudyInstanceUID
    assert found["probability"] == row["probability"]
    table = system.command("results", "--study", ds.StudyInstanceUID).stdout
    assert "FIND-ME" in table
    assert row["band"] in table
    csv = system.command("results", "--study", ds.StudyInstanceUID, "--format", "csv").stdout
    assert csv.splitlines()[0].startswith("study_instance_uid,accession_number,")
    timeline = system.command("show", ds.StudyInstanceUID).stdout
    for event in ("received", "prepared", "predicted", "report", "sent"):
        assert event in timeline
    assert "Canary" not in timeline
    status = system.command("status", "--json")
    assert status.returncode == 0, status.stdout
    check = system.command("check")
    assert check.returncode == 0, check.stdout + check.stderr
    assert "answers C-ECHO" in check.stdout


@pytest.mark.parametrize("role", ["listener", "dicom", "inference", "web"])
def test_each_role_tells_a_probe_that_it_works(system: System, role: str) -> None:
    wait_for(role, lambda: system.command("ready", role).returncode == 0)  # it may still load
    assert "answers" in system.command("health", role).stdout


def test_a_second_copy_in_the_same_home_is_refused(system: System) -> None:
    completed = system.command("up")
    assert completed.returncode == 2
    assert "is in use by another `up`" in completed.stderr


def test_the_log_carries_no_patient_data(system: System) -> None:
    for canary in ("Canary", "Yellow", "PID-1"):
        assert canary not in system.log
