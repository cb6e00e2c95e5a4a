"""`make soak`: does anything grow, or slow down, at full rate for as long as you like?

    python -m tests.chaos.soak --minutes 30

A site of real processes on PostgreSQL with the shipped model, fed as fast as it goes: as many
studies are under way at any time as --at-once says. Every few seconds the memory (resident) and the
file descriptors of each process are read, and how long each study took from its acknowledgement to
its report at the PACS. Prints a table, writes var/soak.json; exit status 1 where something grew.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

import click
import numpy as np
import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_io import scu
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.errors import DestinationUnavailable
from model.bundle import shipped_bundle_path
from tests.chaos.run import free_folder
from tests.chaos.site import ROOT, Site
from tests.support import dicom
from tests.support.outbox import part_10
from tests.support.system import argv_of

SAMPLE_S = 5.0
WARM_UP = 0.2  # of the time: graphs are traced, pools fill up
WINDOWS = 5
GROWTH_MAX = 0.05  # of a process's memory, from the warm-up to the end
GROWTH_MAX_MB = 10.0  # or that, where 5 % is less
SIDE_PX = 320


@dataclass
class Process:
    """One process: seconds since the start, megabytes, descriptors."""

    at_s: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)

    def row(self, name: str, lasted_s: float) -> dict[str, object]:
        steady = [i for i, at in enumerate(self.at_s) if at > WARM_UP * lasted_s]
        at, mb = np.array(self.at_s)[steady], np.array(self.mb)[steady]
        quarter = max(len(steady) // 4, 1)
        first, last = statistics.median(mb[:quarter]), statistics.median(mb[-quarter:])
        fds = np.array(self.fds)[steady]
        return {
            "process": name,
            "mb_first": round(float(first), 1),
            "mb_last": round(float(last), 1),
            "mb_per_hour": round(float(np.polyfit(at, mb, 1)[0] * 3600), 1),
            "fds_first": int(np.median(fds[:quarter])),
            "fds_last": int(np.median(fds[-quarter:])),
            "grew": bool(last - first > max(GROWTH_MAX * first, GROWTH_MAX_MB)),
        }


class Feeder:
    """Keeps a number of studies under way, and times each."""

    def __init__(self, site: Site, at_once: int) -> None:
        self._site = site
        self._room = threading.Semaphore(at_once)
        self._acknowledged: dict[str, float] = {}
        self._seen = 0
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.took: list[tuple[float, float]] = []  # when the report came, and after how long
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(2)]
        for thread in [*self._threads, threading.Thread(target=self._look, daemon=True)]:
            thread.start()

    def _send(self) -> None:
        number = threading.get_ident() % 1000
        while not self.stopped.is_set():
            self._room.acquire()
            number += 1
            ds = dicom.chest(pixels=dicom.chest_pixels(SIDE_PX, number % 200))
            item = scu.SendObject(
                sop_class_uid=str(ds.SOPClassUID),
                sop_instance_uid=str(generate_uid()),
                transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
                payload=b"",
            )
            ds.SOPInstanceUID = item.sop_instance_uid
            item = scu.SendObject(**{**vars(item), "payload": part_10(ds)})
            try:
                (result,) = scu.send([item], self._site.address, "SOAK")
            except DestinationUnavailable as error:
                raise SystemExit(f"the listener: {error}") from error
            assert result.status == 0, result
            with self._lock:
                self._acknowledged[str(ds.StudyInstanceUID)] = time.time()

    def _look(self) -> None:
        """See what has come to the PACS: its files are numbered in the order of arrival."""
        kept = self._site.pacs_folder / "kept"
        while not self.stopped.is_set():
            for path in sorted(kept.glob("*.dcm")):
                ds = dcmread(path, force=True, specific_tags=["StudyInstanceUID", "Modality"])
                came = path.stat().st_mtime
                path.unlink()  # a soak would fill the disk
                self._seen += 1
                if ds.Modality == "SR":
                    with self._lock:
                        sent = self._acknowledged.pop(str(ds.StudyInstanceUID), came)
                    self.took.append((came, came - sent))
                    self._room.release()
            time.sleep(0.1)


@click.command()
@click.option("--minutes", default=30.0)
@click.option("--at-once", default=16, help="Studies under way at any time.")
def main(minutes: float, at_once: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and everything is taken down
    folder = free_folder(ROOT / "var" / "soak")
    settings = {"STUDY_SETTLE_S": 1, "RETENTION_DAYS": 1}
    found: dict[str, Process] = defaultdict(Process)
    with Site(folder, "postgresql", bundle=shipped_bundle_path(), settings=settings) as site:
        started = time.time()
        feeder = Feeder(site, at_once)
        while (at := time.time() - started) < minutes * 60:
            time.sleep(SAMPLE_S)
            _sample(site, found, at)
            if int(at) % 60 < SAMPLE_S:
                print(f"  {at / 60:5.1f} min, {len(feeder.took)} reports", flush=True)
        lasted_s = time.time() - started
        feeder.stopped.set()
    rows = [it.row(name, lasted_s) for name, it in found.items() if len(it.at_s) > 8]
    windows = _windows(feeder.took, started, lasted_s)
    _print(rows, windows, lasted_s, len(feeder.took))
    (ROOT / "var" / "soak.json").write_text(
        json.dumps(
            {
                "minutes": round(lasted_s / 60, 1),
                "reports": len(feeder.took),
                "load_average": os.getloadavg()[0],
                "processes": rows,
                "latency": windows,
            },
            indent=1,
        )
    )
    sys.exit(1 if any(row["grew"] for row in rows) else 0)


def _sample(site: Site, found: dict[str, Process], at: float) -> None:
    for role, program in site.programs.items():
        for process in program.processes():
            try:
                mb, fds = process.memory_info().rss / 2**20, process.num_fds()
            except psutil.NoSuchProcess:
                continue
            celery = ", Celery" if "worker.roles" in argv_of(process) else ""
            it = found[f"{role}{celery} {process.pid}"]
            it.at_s.append(at)
            it.mb.append(mb)
            it.fds.append(fds)


def _windows(
    took: list[tuple[float, float]], started: float, lasted_s: float
) -> list[dict[str, float]]:
    rows = []
    for number in range(WINDOWS):
        begin = started + lasted_s * number / WINDOWS
        end = begin + lasted_s / WINDOWS
        inside = [s for came, s in took if begin <= came < end]
        if inside:
            median, p95 = np.quantile(inside, [0.5, 0.95])
            rows.append(
                {
                    "from_min": round((begin - started) / 60, 1),
                    "reports": len(inside),
                    "median_s": round(float(median), 2),
                    "p95_s": round(float(p95), 2),
                }
            )
    return rows


def _print(
    rows: list[dict[str, object]], windows: list[dict[str, float]], lasted_s: float, reports: int
) -> None:
    print(f"{lasted_s / 60:.1f} minutes, {reports} reports, load {os.getloadavg()[0]:.1f}")
    for table in (rows, windows):
        if table:
            print(" | ".join(table[0]))
            for row in table:
                print(" | ".join(str(value) for value in row.values()))


if __name__ == "__main__":
    main()
