"""`make demo`: the whole way of one image on this machine, with this program as the PACS.

A real adult chest (CR, MONOCHROME1, 15 bits) and a real ankle go through real DIMSE to a
`cxr-worker up` of its own; the Structured Reports come back to a storage SCP in this process.
Every run has a home folder of its own and free ports, so nothing that runs already is touched.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from data_store import DataStore
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from db import queries
from db.engine import Database
from dicom_io.contexts import listener_contexts
from dicom_io.sr_text import as_text
from worker import home
from worker.settings import Settings

FILES = {"RG1_UNCR.dcm": "adult chest, CR, MONOCHROME1", "RG3_UNCR.dcm": "ankle"}
RUNS_KEPT = 3
START_WITHIN_S = 60.0
REPORT_WITHIN_S = 120.0
T = TypeVar("T")
_STARTED = time.monotonic()


class DemoFailed(Exception):
    """The reason that the demo shows before it exits with 1."""


def main() -> int:
    folder = _new_home(Path("var/demo"))
    _say(f"home: {folder}")
    try:
        with _pacs(folder / "pacs") as pacs_port:
            _say(f"this program is the PACS: DEMO_PACS on port {pacs_port}")
            settings = _settings(folder, pacs_port)
            with _up(settings, folder / "up.log") as port:
                _say(f"cxr-worker up: CXR_WORKER on port {port}")
                _send(port)
                studies = _wait_for_reports(settings, folder)
                _show(settings, folder, studies)
    except DemoFailed as failure:
        print(f"\ndemo FAILED: {failure}", file=sys.stderr)
        return 1
    _say("everything is stopped. Not for diagnostic use.")
    return 0


def _new_home(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for old in sorted(parent.iterdir(), key=lambda path: path.stat().st_mtime)[: -RUNS_KEPT + 1]:
        with contextlib.suppress(Exception), home.lock(old.resolve(), "up"):
            shutil.rmtree(old)
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir()
    return folder.resolve()


def _settings(folder: Path, pacs_port: int) -> Settings:
    return Settings.model_validate(
        {
            "home_dir": folder,
            "dicom_port": 0,
            "web_port": 0,
            "destinations": f"DEMO_PACS@127.0.0.1:{pacs_port}",
            "study_settle_s": 2,
            "outside_intended_use": "mark",  # the patient is an adult
            "max_study_age_days": 100_000,  # and the study is old
            "spool_reserve_mb": 100,
        }
    )


@contextlib.contextmanager
def _pacs(folder: Path) -> Iterator[int]:
    folder.mkdir()

    def keep(event: Event) -> int:
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        (folder / f"{uid}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE(ae_title="DEMO_PACS")
    ae.supported_contexts = listener_contexts()
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert server is not None  # it does not block
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


@contextlib.contextmanager
def _up(settings: Settings, log_file: Path) -> Iterator[int]:
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "up"],
            env={**os.environ, **settings.environment()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:

        def port() -> int | None:
            if process.poll() is not None:
                raise DemoFailed(f"cxr-worker up ended:\n{log_file.read_text()}")
            return home.published_port(settings.home)

        yield _wait("the listener to start", port, START_WITHIN_S)
    finally:
        process.terminate()
        process.wait(60)


def _send(port: int) -> None:
    files = [DataStore().get_path(name) for name in FILES]
    command = [sys.executable, "-m", "worker.cli", "send", *files]
    command += ["--to", f"CXR_WORKER@127.0.0.1:{port}"]
    _say("cxr-worker send " + " ".join(FILES) + f" --to CXR_WORKER@127.0.0.1:{port}")
    if subprocess.run(command, check=False).returncode:
        raise DemoFailed("not every file was accepted")


def _wait_for_reports(settings: Settings, folder: Path) -> list[Mapping[str, Any]]:
    database = Database(settings.database)
    seen: dict[str, str] = {}

    def delivered() -> list[Mapping[str, Any]] | None:
        with database.read() as tx:
            rows = queries.find_study_results(tx, queries.ResultFilter())
        for row in rows:
            uid, state = row["study_instance_uid"], row["state"]
            if seen.get(uid) != state:
                seen[uid] = state
                _say(f"study {uid}: {state}")
        done = len(rows) == len(FILES) and all(row["delivered_at"] for row in rows)
        return rows if done else None

    try:
        rows = _wait("the reports", delivered, REPORT_WITHIN_S)
    except DemoFailed as failure:
        log = (folder / "up.log").read_text()
        raise DemoFailed(f"{failure}; cxr-worker up said:\n{log}") from None
    finally:
        database.dispose()
    for row in rows:
        if not (folder / "pacs" / f"{row['sr_sop_instance_uid']}.dcm").is_file():
            raise DemoFailed("a report is marked as delivered, but the PACS does not have it")
    if sum(row["probability"] is not None for row in rows) != 1:
        raise DemoFailed("expected a probability for the chest and none for the ankle")
    return rows


def _show(settings: Settings, folder: Path, studies: list[Mapping[str, Any]]) -> None:
    env = {**os.environ, **settings.environment()}
    _title("cxr-worker results")
    subprocess.run([sys.executable, "-m", "worker.cli", "results"], env=env, check=True)
    database = Database(settings.database)
    for study in sorted(studies, key=lambda row: row["probability"] is None):
        uid = study["study_instance_uid"]
        with database.read() as tx:
            images = queries.find_instance_results(tx, uid)
            events = queries.timeline(tx, uid)
        for image in images:
            _title(f"instance {image['sop_instance_uid']}")
            said = image["reason"] or f"probability {image['probability']:.3f}, {image['band']}"
            print(f"{image['state']}: {said}")
        print("\nwhere the time went:")
        before = events[0].at
        for event in events:
            print(f"  {event.what:<10} +{(event.at - before).total_seconds():.3f} s")
            before = event.at
        report = folder / "pacs" / f"{study['sr_sop_instance_uid']}.dcm"
        _title("the Structured Report, as it came back to the PACS")
        print(as_text(report))
        print(f"\nfile: {report}")
    database.dispose()
    _title("where things lie")
    print(f"reports that came back  {folder / 'pacs'}")
    print(f"database                {folder / 'cxr.db'}")
    print(f"received files          {folder / 'spool'}")
    print(f"log                     {folder / 'up.log'}")


def _wait(what: str, probe: Callable[[], T | None], within_s: float) -> T:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (found := probe()) is not None:
            return found
        time.sleep(0.1)
    raise DemoFailed(f"waited {within_s:.0f} s for {what}")


def _title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def _say(text: str) -> None:
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
