"""A whole running system for tests: real processes, a real broker, a real receiving PACS."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from db import queries
from db.engine import Database
from dicom_io import scu
from dicom_io.contexts import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    listener_contexts,
)
from dicom_io.destination import Destination
from worker import home

T = TypeVar("T")
START_WITHIN_S = 60.0


def wait_for(what: str, probe: Callable[[], T | None], within_s: float = 60.0) -> T:
    """Ask until the answer is not None or False; AssertionError when that takes too long."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {within_s} s for {what}")


def lives(pid: int) -> bool:
    """Whether there is such a process, and it has not ended unnoticed by its parent."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def command(*arguments: object, env: Mapping[str, str] | None = None) -> Any:
    """Run `cxr-worker` to its end; returns the completed process with its output as text."""
    argv = [sys.executable, "-m", "worker.cli", *(str(part) for part in arguments)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    return subprocess.run(
        argv, env={**clean, **(env or {})}, capture_output=True, text=True, check=False, timeout=120
    )


class Pacs:
    """A storage SCP that keeps what it gets, and refuses when told to.

    It answers requests for storage commitment with Success, and reports when told to.
    """

    def __init__(self, contexts: list[PresentationContext] | None = None) -> None:
        self.commitments: list[Dataset] = []
        self.refused: dict[str, int] = {}  # SOP Class UID and the status that it gets
        self.received: list[FileDataset] = []
        self.status = 0x0000
        self.delay_s = 0.0  # before each answer
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.associations = 0
        self._lock = threading.Lock()
        _config.LOG_HANDLER_LEVEL = "none"
        self._ae = AE(ae_title="PACS")
        self._ae.supported_contexts = contexts or [
            *(it for it in listener_contexts() if it.abstract_syntax != STORAGE_COMMITMENT),
            build_context(STORAGE_COMMITMENT),
        ]
        handlers: list[EventHandlerType] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ESTABLISHED, self._count),
            (evt.EVT_N_ACTION, self._commit),
        ]
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self._server = server
        self.destination = f"PACS@127.0.0.1:{server.server_address[1]}"

    def _store(self, event: Event) -> int:
        time.sleep(self.delay_s)
        self.may_answer.wait(60)
        status = self.refused.get(str(event.request.AffectedSOPClassUID), self.status)
        if status == 0:
            chunked = _config.STORE_RECV_CHUNKED_DATASET
            ds = dcmread(event.dataset_path if chunked else BytesIO(event.encoded_dataset()))
            with self._lock:
                self.received.append(ds)
        return status

    def _commit(self, event: Event) -> tuple[int, None]:
        with self._lock:
            self.commitments.append(event.action_information)
        return 0x0000, None

    def report_commitment(
        self, request: Dataset, to: Destination, failed: Mapping[str, int] | None = None
    ) -> int | None:
        """N-EVENT-REPORT over an association of its own; returns the status, None if refused."""
        failed = failed or {}
        information = Dataset()
        information.TransactionUID = request.TransactionUID
        asked = list(request.ReferencedSOPSequence)
        bad = [it for it in asked if it.ReferencedSOPInstanceUID in failed]
        information.ReferencedSOPSequence = [it for it in asked if it not in bad]
        for item in bad:
            item.FailureReason = failed[item.ReferencedSOPInstanceUID]
        if bad:
            information.FailedSOPSequence = bad
        return self.n_event_report(information, to, 2 if bad else 1)

    def n_event_report(
        self, information: Dataset, to: Destination, event_type: int, *, as_scp: bool = True
    ) -> int | None:
        ae = AE(ae_title="PACS")
        ae.add_requested_context(STORAGE_COMMITMENT)
        role = [build_role(STORAGE_COMMITMENT, scp_role=True)] if as_scp else []
        assoc = ae.associate(to.host, to.port, ae_title=to.ae_title, ext_neg=role)
        if not assoc.is_established:
            return None
        status, _ = assoc.send_n_event_report(
            information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        assoc.release()
        found: int | None = status.get("Status")
        return found

    def _count(self, _event: Event) -> None:
        self.associations += 1

    def reports(self, study: str) -> list[FileDataset]:
        """The study's reports in the order of their arrival, each SOP Instance once."""
        return [ds for ds in self._of(study) if ds.Modality == "SR"]

    def pictures(self, study: str) -> list[FileDataset]:
        """The study's saliency pictures, likewise."""
        return [ds for ds in self._of(study) if ds.Modality == "OT"]

    def _of(self, study: str) -> list[FileDataset]:
        with self._lock:
            found = {ds.SOPInstanceUID: ds for ds in self.received if ds.StudyInstanceUID == study}
        return list(found.values())

    def close(self) -> None:
        self._server.shutdown()


def lone_pacs() -> Iterator[Pacs]:
    """A PACS without a system, as a fixture: `pacs = pytest.fixture(lone_pacs)`."""
    made = Pacs()
    yield made
    made.close()


class System:
    """`cxr-worker up` in a home of its own."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.home = folder.resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        defaults: dict[str, object] = {
            "HOME_DIR": self.home,
            "DICOM_PORT": 0,
            "WEB_PORT": 0,
            "STUDY_SETTLE_S": 0.5,
            "MAX_STUDY_AGE_DAYS": 100_000,
            "SPOOL_RESERVE_MB": 10,
        }
        self.env = {f"CXR_{name}": str(value) for name, value in (defaults | settings).items()}
        self._process: subprocess.Popen[bytes] | None = None
        url = self.env.get("CXR_DATABASE_URL") or f"sqlite:///{self.home / 'cxr.db'}"
        self.database = Database(url)

    @property
    def log(self) -> str:
        return (self.home / "up.log").read_text()

    def start(self) -> None:
        (self.home / "listener.port").unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        with (self.home / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", "up"],
                env=clean | self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for("the listener", self._port, START_WITHIN_S)

    def _port(self) -> int | None:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return home.published_port(self.home)

    @property
    def address(self) -> Destination:
        port = home.published_port(self.home)
        assert port is not None
        return Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=port)

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def kill(self) -> None:
        """kill -9 of `up` itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def processes(self, *words: str) -> list[psutil.Process]:
        """Our processes whose command line has all of these words."""
        assert self._process is not None
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [it for it in found if all(word in " ".join(argv_of(it)) for word in words)]

    def kill_role(self, *words: str) -> None:
        """kill -9 of every process of a role; the role is started again."""
        victims = self.processes(*words)
        assert victims, f"no process {words} in {[argv_of(it) for it in self.processes()]}"
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)

    def send(self, paths: Sequence[Path]) -> list[scu.FileResult]:
        return list(scu.send_files(paths, self.address, calling_ae_title="SENDER"))

    def command(self, *arguments: object) -> Any:
        return command(*arguments, env=self.env)

    def results(self, *arguments: str) -> list[dict[str, Any]]:
        completed = self.command("results", "--format", "json", *arguments)
        assert completed.returncode == 0, completed.stderr
        rows: list[dict[str, Any]] = json.loads(completed.stdout)
        return rows

    def study(self, uid: str) -> Mapping[str, Any] | None:
        with self.database.read() as tx:
            found = queries.find_study_results(tx, queries.ResultFilter(study_instance_uid=uid))
        return found[0] if found else None

    def instances(self, study: str) -> dict[str, Mapping[str, Any]]:
        with self.database.read() as tx:
            return {
                row["sop_instance_uid"]: row for row in queries.find_instance_results(tx, study)
            }

    def wait_until_reported(self, study: str, within_s: float = 90.0) -> Mapping[str, Any]:
        def reported() -> Mapping[str, Any] | None:
            row = self.study(study)
            return row if row is not None and row["state"] == "reported" else None

        return wait_for(f"the report of {study}", reported, within_s)

    def wait_until_delivered(self, study: str, within_s: float = 90.0) -> Mapping[str, Any]:
        def delivered() -> Mapping[str, Any] | None:
            row = self.study(study)
            done = row is not None and row["state"] == "reported" and row["delivered_at"]
            return row if done else None

        return wait_for(f"the delivery of {study}", delivered, within_s)


def argv_of(process: psutil.Process) -> list[str]:
    """Its command line; empty when it has just ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


@contextlib.contextmanager
def running(folder: Path, **settings: object) -> Iterator[tuple[System, Pacs]]:
    """A started system that delivers to a PACS; both are ended afterwards."""
    pacs = Pacs()
    system = System(folder, **({"DESTINATIONS": pacs.destination} | settings))
    try:
        system.start()
        yield system, pacs
    finally:
        if system._process is not None and system._process.poll() is None:
            system.stop()
        system.database.dispose()
        pacs.close()
