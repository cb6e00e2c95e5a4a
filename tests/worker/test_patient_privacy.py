"""A canary patient in every field, the whole way at DEBUG, and where it must not be seen.

Two studies: one whose header holds the canary wherever text may stand, and one for each kind of
element that is not text, which it makes invalid, so that every parser meets it. All that can go
wrong does: files that are none, a PACS that refuses, one that is not there, a study retracted,
another forgotten. Then the canary is looked for: it is in the spool, the database and the reports,
and nowhere in logs, broker, metrics, audit trail, status, or on pages that do not show patients.
"""

import re
import sqlite3
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import sqlalchemy as sa
from pydicom import config, dcmwrite
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

import dicom_io
from db.tables import InstanceState, instances
from dicom_io import scu
from dicom_io.scu import SendObject
from tests.support import dicom
from tests.support.peers import free_port
from tests.support.system import Pacs, System, wait_for
from worker import embedded, home

pytestmark = pytest.mark.long

NAME, IDENTIFIER, ORDER, TEXT = "CanaryName", "CanaryId77", "CanaryAcc1", "CanaryText"
CANARIES = (NAME, IDENTIFIER, ORDER, TEXT, "19470813")
_TEXT_VRS = {"LO", "LT", "SH", "ST", "UC", "UT", "PN"}
_OTHER_VRS = {"DS", "IS", "DA", "TM", "DT", "AS", "CS", "SH"}
# What says whether, and how, an image is read at all; and what groups it.
_NEEDED = {
    "SpecificCharacterSet", "Modality", "BodyPartExamined", "PhotometricInterpretation",
    "PatientName", "PatientID", "AccessionNumber", "PatientAge", "TimezoneOffsetFromUTC",
}  # fmt: skip


def _text_fields() -> list[tuple[int, str]]:
    """Tags and VRs of what a data set may hold, by the data dictionary."""
    return [
        (tag, entry[0])
        for tag, entry in DicomDictionary.items()
        if entry[0] in _TEXT_VRS and entry[4] not in _NEEDED and 0x0008 <= tag >> 16 <= 0x4010
    ]


def _read_by_us() -> list[int]:
    """Tags that our own code names and that hold no free text."""
    source = "".join(it.read_text() for it in Path(dicom_io.__file__).parent.glob("*.py"))
    found = {tag_for_keyword(it) for it in re.findall(r'[".]([A-Z][A-Za-z]{3,})\b', source)}
    found.discard(tag_for_keyword("AccessionNumber"))  # pages show it, and it has its own canary
    data_set = [it for it in found if it is not None and it >> 16 >= 0x0008]
    return sorted(it for it in data_set if dictionary_VR(it) in _OTHER_VRS)


def _chest(**changes: Any) -> Dataset:
    ds = dicom.chest(PatientName=f"{NAME}^Yellow", PatientID=IDENTIFIER, AccessionNumber=ORDER)
    ds.PatientBirthDate = "19470813"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def _everywhere() -> Dataset:
    ds = _chest()
    for tag, vr in _text_fields():
        ds.add(DataElement(tag, vr, f"{NAME}^{TEXT}" if vr == "PN" else TEXT))
    ds.add_new(0x00091001, "LO", TEXT)  # private, without a creator
    return ds


def _invalid(tag: int) -> Dataset:
    """In Implicit VR a file does not say what a value is to be: text where none may stand."""
    ds = _chest()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds[tag] = DataElement(tag, "LO", TEXT)
    return ds


def _sent(system: System, items: list[Dataset], folder: Path) -> list[int | None]:
    return [it.status for it in system.send([dicom.write(ds, folder) for ds in items])]


class Monitor:
    """Everything that passes the broker."""

    def __init__(self, system: System) -> None:
        path = str(embedded.socket_path(system.home))
        self.seen: list[str] = []
        self._client = redis.Redis(unix_socket_path=path)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._client.monitor() as monitor:
                for command in monitor.listen():
                    self.seen.append(str(command))
        except (redis.RedisError, OSError):
            pass  # it ends with the system


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What everybody could see who is not to see a patient, by where; and what is to be there."""
    folder = tmp_path_factory.mktemp("canary")
    pacs = Pacs()
    absent = f"ABSENT@127.0.0.1:{free_port()}"
    settings = {"LOG_LEVEL": "DEBUG", "METRICS_PORT": 0}
    system = System(folder / "home", DESTINATIONS=f"{pacs.destination},{absent}", **settings)
    system.start()
    config.settings.writing_validation_mode = config.IGNORE
    try:
        yield _walk(system, pacs, Monitor(system), folder)
    finally:
        config.settings.writing_validation_mode = config.WARN
        system.kill()
        system.database.dispose()
        pacs.close()


def _walk(system: System, pacs: Pacs, monitor: Monitor, folder: Path) -> dict[str, str]:
    files = folder / "files"
    files.mkdir()
    whole, again = _everywhere(), _chest()
    wait_for("the workers", lambda: "inference worker ready" in system.log, 240)
    assert _sent(system, [whole, again], files) == [0, 0]
    uids = [str(it.StudyInstanceUID) for it in (whole, again)]
    for uid in uids:
        system.wait_until_reported(uid)
    wait_for("the reports", lambda: all(pacs.reports(uid) for uid in uids), 60)

    invalid = [_invalid(tag) for tag in _read_by_us()]
    assert len(invalid) > 20
    statuses = _sent(system, invalid, files)
    assert set(statuses) <= {0, 0xC000}
    other = _chest(StudyInstanceUID=again.StudyInstanceUID, SOPInstanceUID=again.SOPInstanceUID)
    other.PixelData = dicom.chest_pixels(seed=9).tobytes()
    assert _sent(system, [other], files) == [0]  # other pixels under a known UID
    _send_rubbish(system)
    pacs.status = 0xC000  # refuses from now on
    last = _chest()
    assert _sent(system, [last], files) == [0]
    system.wait_until_reported(str(last.StudyInstanceUID))
    wait_for("every image to end", lambda: _unfinished(system) == 0, 120)
    wait_for("a refusal", lambda: "refused with status 0xC000" in system.log, 60)

    seen = {"status": "", "pages": "", "metrics": ""}
    for arguments in (["status", "--json"], ["check"], ["failures"], ["destination", "list"],
                      ["retract", uids[0], "--reason", "quality"], ["show", "9.9"]):  # fmt: skip
        done = system.command(*arguments)
        seen["status"] += done.stdout + done.stderr
    seen["pages"] = _pages(system, uids)
    [broker] = system.processes("valkey")
    broker.suspend()  # while there is something to say to it
    assert _sent(system, [_chest()], files) == [0]
    wait_for("a wake-up that was not sent", lambda: "broker took no wake-up" in system.log, 60)
    broker.resume()
    done = system.command("forget", uids[1], "--yes")
    assert done.returncode == 0, done.stderr
    seen["status"] += done.stdout + done.stderr
    metrics = home.published_port(system.home, "metrics")
    seen["metrics"] = httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=30).text
    database = sqlite3.connect(system.home / "cxr.db")
    seen["kept"] = "".join(database.iterdump()) + "".join(
        it.read_bytes().decode("latin-1") for it in (system.home / "spool").rglob("*.dcm")
    )
    seen["reports"] = "".join(str(it) for it in pacs.reports(uids[0]))
    assert system.stop() == 0
    seen["log"] = system.log
    seen["broker"] = "\n".join(monitor.seen) + (system.home / "broker" / "valkey.log").read_text()
    seen["audit"] = (system.home / "audit" / "audit.xml").read_text()
    return seen


def _send_rubbish(system: System) -> None:
    for rubbish in (TEXT.encode() * 100, f"{NAME}^{TEXT}".encode() + b"\xff" * 1000, b""):
        head = Dataset()
        head.file_meta = dicom.chest().file_meta
        head.file_meta.MediaStorageSOPClassUID = dicom.CR
        head.file_meta.MediaStorageSOPInstanceUID = uid = generate_uid()
        part10 = BytesIO()
        dcmwrite(part10, head, enforce_file_format=True)
        item = SendObject(
            sop_class_uid=dicom.CR,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            payload=part10.getvalue() + rubbish,
        )
        scu.send([item], system.address, "SENDER")


def _unfinished(system: System) -> int:
    ended = (InstanceState.PREDICTED, InstanceState.REJECTED, InstanceState.FAILED)
    with system.database.read() as tx:
        query = sa.select(sa.func.count()).where(instances.c.state.not_in(ended))
        return int(tx.conn.execute(query).scalar_one())


def _pages(system: System, uids: list[str]) -> str:
    port = home.published_port(system.home, "web")
    text = ""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        paths = [
            "/",
            "/worklist",
            "/system",
            "/try",
            "/api",
            "/healthz",
            "/readyz",
            "/nowhere",
            "/studies/9.9.9",
        ]
        for uid in uids:
            paths += [f"/studies/{uid}{it}" for it in ("", "/result", "/current")]
        for path in paths:
            text += client.get(path).text
    return text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["log", "broker", "metrics", "audit", "status"])
def test_the_canary_is_nowhere_it_must_not_be(way: dict[str, str], where: str) -> None:
    assert len(way[where]) > 100  # there is something
    assert _found(way[where], CANARIES) == {}


def _found(text: str, canaries: tuple[str, ...]) -> dict[str, str]:
    """Which of them there are, each with what stands around the first."""
    return {it: text[max(text.find(it) - 200, 0) :][:400] for it in canaries if it in text}


@pytest.mark.timeout(600)
def test_pages_show_no_patient_unless_told_to(way: dict[str, str]) -> None:
    assert "</html>" in way["pages"]
    assert _found(way["pages"], (NAME, IDENTIFIER, TEXT, "19470813")) == {}


@pytest.mark.timeout(600)
def test_the_canary_is_where_the_patient_is_to_be_kept(way: dict[str, str]) -> None:
    assert [it for it in (NAME, IDENTIFIER, ORDER, TEXT) if it not in way["kept"]] == []
    assert NAME in way["reports"]
    assert IDENTIFIER in way["reports"]


@pytest.mark.timeout(600)
def test_the_log_was_at_debug_and_told_of_failures(way: dict[str, str]) -> None:
    for word in ("DEBUG", "quarantined", "other pixels under a known UID", "refused with status"):
        assert word in way["log"], word
