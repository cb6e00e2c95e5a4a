"""DCMTK on both sides: its storescu sends a study, its storescp receives the report."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support import dicom
from tests.support.peers import free_port, tool
from tests.support.system import System, running

pytestmark = pytest.mark.peers


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A running storescp: as a destination, and the folder it writes to."""
    folder = tmp_path / "received"
    folder.mkdir()
    port = free_port()
    argv = [tool("storescp"), "--aetitle", "PACS", "--output-directory", folder, str(port)]
    process = subprocess.Popen(argv)
    yield f"PACS@127.0.0.1:{port}", folder
    process.terminate()
    process.wait(10)


@pytest.fixture
def system(tmp_path: Path, storescp: tuple[str, Path]) -> Iterator[System]:
    # Every image is one to review, whatever the model thinks of it: so each has a picture.
    settings = {"DESTINATIONS": storescp[0], "STUDY_SETTLE_S": 2, "BAND_REVIEW_FROM": 1e-6}
    with running(tmp_path / "home", **settings) as (system, _):
        yield system


def test_storescu_sends_a_study_and_storescp_gets_one_valid_report(
    system: System, storescp: tuple[str, Path], tmp_path: Path
) -> None:
    study, folder = generate_uid(), tmp_path / "study"
    folder.mkdir()
    for seed in range(3):
        dicom.write(dicom.chest(study, pixels=dicom.chest_pixels(seed=seed)), folder)
    real = dicom.real_copy("RG1_UNCR.dcm", PatientAge="004Y")
    dicom.write(real, folder)
    port = str(system.address.port)
    argv = [tool("storescu"), "-aec", "CXR_WORKER", "-R", "+sd", "127.0.0.1", port, folder]
    subprocess.run(argv, check=True, timeout=60)
    rows = [system.wait_until_delivered(uid) for uid in (study, real.StudyInstanceUID)]
    files = list(storescp[1].iterdir())  # two reports, a picture for each image
    reports = [file for file in files if dcmread(file).Modality == "SR"]
    assert (len(reports), len(files)) == (2, 6)
    text = ""
    for file in files:
        checked = subprocess.run(
            [tool("dciodvfy"), file], capture_output=True, text=True, check=False
        )
        assert "Error" not in checked.stderr + checked.stdout
    for file in reports:
        dump = [tool("dsrdump"), "--print-long-values", file]
        text += subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    assert text.count("Certainty of Finding") == 4
    for row in rows:
        assert f"PRESENT {row['probability']:.1%}".replace("%", " %") in text
    assert system.study(study) == rows[0]  # and no second report


def test_echoscu_is_answered(system: System) -> None:
    argv = [tool("echoscu"), "-aec", "CXR_WORKER", "127.0.0.1", str(system.address.port)]
    subprocess.run(argv, check=True, timeout=20)


def test_compressed_images_arrive_as_they_were_sent(system: System, tmp_path: Path) -> None:
    ds = dicom.real_copy("RG1_J2KR.dcm", PatientAge="004Y")
    path = dicom.write(ds, tmp_path)
    port = str(system.address.port)
    argv = [tool("storescu"), "-xv", "-aec", "CXR_WORKER", "127.0.0.1", port, path]
    subprocess.run(argv, check=True, timeout=60)
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    assert row["analysed_count"] == 1
