"""What goes wrong, and a schedule of it drawn from a seed.

Each fault breaks one thing for real and mends it again; what it breaks is named in its first words.
Of those that would undo each other (two on the same program, say) one waits for the other.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
import redis

from tests.chaos import pacs
from tests.chaos.site import ROLES, Site

STATUSES = ("a700", "0110", "c000", "a900")
DAY_S = 86_400
Mended = threading.Event  # set when the run is over, and everything is to be mended at once


@dataclass(frozen=True, kw_only=True)
class Fault:
    kind: str
    at_s: float
    for_s: float
    chance: float  # in [0, 1): which of several, where there are several


@dataclass(frozen=True, kw_only=True)
class Kind:
    """breaks: what no other fault may touch meanwhile. needs: what a site may lack."""

    breaks: str
    strike: Callable[[Site, Fault, Mended], None]
    for_s: tuple[float, float] = (0.0, 0.0)
    needs: str | None = None
    weight: int = 2
    databases: tuple[str, ...] = ("sqlite", "postgresql")


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def _one(processes: list[psutil.Process], chance: float) -> list[psutil.Process]:
    return [processes[int(chance * len(processes))]] if processes else []


def _kill_role(role: str) -> Callable[[Site, Fault, Mended], None]:
    def strike(site: Site, _fault: Fault, _mended: Mended) -> None:
        for process in site.role_processes(role)[:1]:
            _kill(process)

    return strike


def _kill_child_of_listener(site: Site, fault: Fault, _mended: Mended) -> None:
    for process in _one(site.role_processes("listener")[1:], fault.chance):
        _kill(process)


def _kill_celery(site: Site, _fault: Fault, _mended: Mended) -> None:
    for process in site.celery()[:1]:
        _kill(process)


def _kill_prefork_child(site: Site, fault: Fault, _mended: Mended) -> None:
    for process in _one(site.celery()[1:], fault.chance):
        _kill(process)


def _power_cut(site: Site, _fault: Fault, _mended: Mended) -> None:
    for name in (*ROLES, "broker"):
        for process in site.role_processes(name):
            _kill(process)


def _restart(site: Site, fault: Fault, _mended: Mended) -> None:
    site.programs[ROLES[int(fault.chance * len(ROLES))]].send(signal.SIGTERM)


def _freeze(site: Site, fault: Fault, mended: Mended) -> None:
    """Stopped, and going on as if nothing had been: leases are over by then."""
    everyone = [it for role in ROLES for it in site.role_processes(role)]
    for process in _one(everyone, fault.chance):
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            mended.wait(fault.for_s)
            process.resume()


def _broker_killed(site: Site, fault: Fault, mended: Mended) -> None:
    with _held_down(site, "broker"):
        mended.wait(fault.for_s)


def _broker_flushed(site: Site, _fault: Fault, _mended: Mended) -> None:
    with suppress(redis.RedisError):
        site.broker().flushall()


def _broker_paused(site: Site, fault: Fault, mended: Mended) -> None:
    site.programs["broker"].send(signal.SIGSTOP)
    mended.wait(fault.for_s)
    site.programs["broker"].send(signal.SIGCONT)


def _database_stopped(site: Site, fault: Fault, mended: Mended) -> None:
    site.chaos_database.stop()
    mended.wait(fault.for_s)
    site.chaos_database.resume()


def _database_killed(site: Site, fault: Fault, mended: Mended) -> None:
    site.chaos_database.kill()
    mended.wait(fault.for_s)
    site.chaos_database.resume()


def _pacs_mode(mode: str) -> Callable[[Site, Fault, Mended], None]:
    def strike(site: Site, fault: Fault, mended: Mended) -> None:
        said = mode or STATUSES[int(fault.chance * len(STATUSES))]
        pacs.set_mode(site.pacs_folder, said)
        mended.wait(fault.for_s)
        pacs.set_mode(site.pacs_folder, pacs.OK)

    return strike


def _pacs_down(site: Site, fault: Fault, mended: Mended) -> None:
    with _held_down(site, "pacs"):
        mended.wait(fault.for_s)


def _pacs_down_for_a_day(site: Site, fault: Fault, mended: Mended) -> None:
    with _held_down(site, "pacs"):
        for _ in range(24):
            site.jump(DAY_S / 24)
            mended.wait(fault.for_s / 24)


def _disk_full(site: Site, fault: Fault, mended: Mended) -> None:
    site.fill_disk()
    mended.wait(fault.for_s)
    site.free_disk()


def _clock_forward(site: Site, fault: Fault, _mended: Mended) -> None:
    site.jump(60 + 7200 * fault.chance)


def _clock_back(site: Site, fault: Fault, _mended: Mended) -> None:
    site.jump(-60 - 3600 * fault.chance)


def _cut(host: str) -> Callable[[Site, Fault, Mended], None]:
    def strike(site: Site, fault: Fault, mended: Mended) -> None:
        site.network.cut(host)
        mended.wait(fault.for_s)
        site.network.join(host)

    return strike


@contextmanager
def _held_down(site: Site, name: str) -> Iterator[None]:
    program = site.programs[name]
    program.held_down = True
    try:
        for process in program.processes():
            _kill(process)
        yield
    finally:
        program.held_down = False


KINDS = {
    "listener killed": Kind(breaks="listener", strike=_kill_role("listener"), weight=3),
    "one listener process killed": Kind(breaks="listener", strike=_kill_child_of_listener),
    "dicom worker killed": Kind(breaks="dicom", strike=_kill_role("dicom")),
    "Celery's process killed": Kind(breaks="dicom", strike=_kill_celery),
    "a prefork child killed": Kind(breaks="dicom", strike=_kill_prefork_child, weight=3),
    "inference worker killed": Kind(breaks="inference", strike=_kill_role("inference")),
    "every process and the broker killed": Kind(breaks="listener", strike=_power_cut, weight=1),
    "a role ended by SIGTERM": Kind(breaks="roles", strike=_restart),
    "a process frozen": Kind(breaks="roles", strike=_freeze, for_s=(2, 25)),
    "broker killed": Kind(breaks="broker", strike=_broker_killed, for_s=(0, 8)),
    "broker flushed": Kind(breaks="broker", strike=_broker_flushed),
    "broker paused": Kind(breaks="broker", strike=_broker_paused, for_s=(2, 12)),
    "database stopped": Kind(breaks="database", strike=_database_stopped, for_s=(1, 8),
                             databases=("postgresql",)),
    "database killed": Kind(breaks="database", strike=_database_killed, for_s=(0, 5),
                            databases=("postgresql",)),
    "database locked": Kind(breaks="database", strike=_database_stopped, for_s=(2, 26),
                            databases=("sqlite",), weight=4),
    "PACS answers failures": Kind(breaks="pacs", strike=_pacs_mode(""), for_s=(2, 8), weight=3),
    "PACS rejects associations": Kind(breaks="pacs", strike=_pacs_mode(pacs.REJECT),
                                      for_s=(2, 10)),
    "PACS hangs": Kind(breaks="pacs", strike=_pacs_mode(pacs.HANG), for_s=(2, 12)),
    "PACS down": Kind(breaks="pacs", strike=_pacs_down, for_s=(2, 12)),
    "PACS down for a day": Kind(breaks="pacs", strike=_pacs_down_for_a_day, for_s=(12, 16),
                                weight=1),
    "disk full": Kind(breaks="disk", strike=_disk_full, for_s=(3, 10), needs="disk", weight=3),
    "clock forward": Kind(breaks="clock", strike=_clock_forward),
    "clock back": Kind(breaks="clock", strike=_clock_back),
    "worker cut off": Kind(breaks="net worker", strike=_cut("worker"), for_s=(2, 15),
                           needs="hosts"),
    "broker cut off": Kind(breaks="net broker", strike=_cut("broker"), for_s=(2, 15),
                           needs="hosts"),
    "database cut off": Kind(breaks="net database", strike=_cut("database"), for_s=(2, 15),
                             needs="hosts", databases=("postgresql",)),
    "PACS cut off": Kind(breaks="net pacs", strike=_cut("pacs"), for_s=(2, 15), needs="hosts"),
}  # fmt: skip


def skipped(site: Site) -> dict[str, str]:
    """Kinds that cannot be had here, each with its reason."""
    lacks = {"disk": site.no_disk, "hosts": site.no_hosts}
    return {
        name: reason
        for name, kind in KINDS.items()
        if kind.needs is not None and (reason := lacks[kind.needs]) is not None
    }


def draw(site: Site, *, count: int, over_s: float, seed: int) -> list[Fault]:
    """A schedule, the earliest first: every kind about as often as its weight says."""
    rng = random.Random(seed)
    without = skipped(site)
    names = [
        name
        for name, kind in KINDS.items()
        for _ in range(kind.weight)
        if name not in without and site.chaos_database.name in kind.databases
    ]
    drawn: list[str] = []
    while len(drawn) < count:
        rng.shuffle(names)
        drawn += names
    return [
        Fault(
            kind=name,
            at_s=over_s * (number + rng.random()) / count,
            for_s=rng.uniform(*KINDS[name].for_s),
            chance=rng.random(),
        )
        for number, name in enumerate(drawn[:count])
    ]


class Storm:
    """Lets a schedule happen, each fault in a thread of its own."""

    def __init__(self, site: Site, schedule: list[Fault]) -> None:
        self.struck: Counter[str] = Counter()
        self.errors: list[str] = []
        self._site = site
        self._schedule = schedule
        self._mended = threading.Event()
        self._locks = {kind.breaks: threading.Lock() for kind in KINDS.values()}
        self._threads: list[threading.Thread] = []
        self._main = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._main.start()

    @property
    def over(self) -> bool:
        return not self._main.is_alive() and not any(it.is_alive() for it in self._threads)

    def mend(self) -> None:
        """End what still strikes, and wait until everything is whole."""
        self._mended.set()
        self._main.join()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        for fault in self._schedule:
            if self._mended.wait(max(started + fault.at_s - time.monotonic(), 0)):
                return
            thread = threading.Thread(target=self._strike, args=(fault,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _strike(self, fault: Fault) -> None:
        kind = KINDS[fault.kind]
        with self._locks[kind.breaks]:
            print(f"  {time.strftime('%X')}  {fault.kind} ({fault.for_s:.0f} s)", flush=True)
            try:
                kind.strike(self._site, fault, self._mended)
                self.struck[fault.kind] += 1
            except Exception as error:
                self.errors.append(f"{fault.kind}: {type(error).__name__}: {error}")
