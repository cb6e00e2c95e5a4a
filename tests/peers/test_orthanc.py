"""Orthanc as the PACS, with the configuration and the script that deploy/orthanc ships."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from db import queries
from tests.support import dicom
from tests.support.peers import free_port, tool
from tests.support.system import System, running, wait_for

pytestmark = pytest.mark.peers
SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "orthanc"


class Orthanc:
    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.settings = folder, settings
        self.dicom_port, self.http_port = free_port(), free_port()
        self.destination = f"ORTHANC@127.0.0.1:{self.dicom_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, worker_port: int, **changes: object) -> None:
        configuration = json.loads((SHIPPED / "orthanc.json").read_text())
        configuration |= {
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "DicomModalities": {"cxr-worker": ["CXR_WORKER", "127.0.0.1", worker_port]},
            **changes,
        }
        configuration |= self.settings
        shutil.copy(SHIPPED / "forward.lua", self.folder)
        (self.folder / "orthanc.json").write_text(json.dumps(configuration))
        with (self.folder / "orthanc.log").open("wb") as log:
            argv = [tool("Orthanc"), "--verbose", "orthanc.json"]
            self._process = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)
        wait_for("Orthanc", self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path: str, data: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
            return json.load(answer)

    def preview(self, instance: str) -> Any:
        """What Orthanc's own pages show of an instance: uint8 (rows, columns, 3)."""
        url = f"http://127.0.0.1:{self.http_port}/instances/{instance}/preview"
        with urllib.request.urlopen(url, timeout=30) as answer:
            png = np.frombuffer(answer.read(), np.uint8)
        return cv2.imdecode(png, cv2.IMREAD_COLOR)

    def delete(self, path: str) -> None:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Orthanc, System]]:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    orthanc = Orthanc(folder)
    tool("Orthanc")
    listed = tmp_path / "destinations.toml"
    listed.write_text(
        '[[destination]]\nname = "orthanc"\nkind = "dicom"\nae_title = "ORTHANC"\n'
        f'host = "127.0.0.1"\nport = {orthanc.dicom_port}\nstorage_commitment = true\n'
    )
    # Every image is one to review, whatever the model thinks of it: so each has a picture.
    settings = {"DESTINATIONS": "", "DESTINATIONS_FILE": listed, "BAND_REVIEW_FROM": 1e-6}
    with running(tmp_path / "home", **settings) as (system, _):
        try:
            orthanc.start(system.address.port)
            yield orthanc, system
        finally:
            orthanc.stop()


def test_what_orthanc_stores_comes_back_into_its_study_as_one_report(
    pair: tuple[Orthanc, System], tmp_path: Path
) -> None:
    orthanc, system = pair
    ds = dicom.real_copy("RG1_UNCR.dcm", PatientAge="004Y")
    stored = orthanc.get("/instances", dicom.write(ds, tmp_path).read_bytes())
    row = system.wait_until_delivered(ds.StudyInstanceUID)
    (study,) = orthanc.get("/studies?expand")
    assert study["ID"] == stored["ParentStudy"]
    series = [orthanc.get(f"/series/{uid}") for uid in study["Series"]]
    modalities = sorted(it["MainDicomTags"]["Modality"] for it in series)
    assert modalities == ["CR", "OT", "SR"]
    of = {it["MainDicomTags"]["Modality"]: it["Instances"] for it in series}
    (report,), (picture,) = of["SR"], of["OT"]
    tags = orthanc.get(f"/instances/{report}/simplified-tags")
    assert tags["SOPInstanceUID"] == row["sr_sop_instance_uid"]
    assert tags["PatientID"] == ds.PatientID
    assert tags["CurrentRequestedProcedureEvidenceSequence"]
    shown = orthanc.preview(picture)
    assert shown.shape[0] > 900
    assert (np.ptp(shown.astype(int), axis=2) > 60).mean() > 0.02  # heat and warnings in colour
    wait_for("Orthanc's commitment", lambda: _all_committed(system, ds.StudyInstanceUID))
    assert system.study(ds.StudyInstanceUID) == row  # the report did not come round again


def _all_committed(system: System, study: str) -> bool:
    with system.database.read() as tx:
        states = [row["state"] for row in queries.find_deliveries(tx, study)]
    return bool(states) and set(states) == {"committed"}
