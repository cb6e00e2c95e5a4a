"""Connections and transactions, on SQLite and PostgreSQL alike."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from db import ownership

SQLITE_TURN_WITHIN_S = 10
SQLITE_TURN_EVERY_S = 0.002
SQLITE_BUSY_TIMEOUT_S = 10
POSTGRESQL_CONNECT_TIMEOUT_S = 5
POSTGRESQL_STATEMENT_TIMEOUT_S = 60
POSTGRESQL_SILENCE_MAX_S = 10  # of the network under a connection; else it may last a quarter hour

Clock = Callable[[Connection], datetime]


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """An open transaction and the time it began by the database's clock (UTC)."""

    conn: Connection
    now: datetime


class Database:
    """One engine of one process: make it after a fork, never before.

    `clock` replaces the database's clock in tests of long outages.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self.engine = _make_engine(url)
        self._turn: AbstractContextManager[Any] = nullcontext()
        if self.is_sqlite and self.engine.url.database:
            self._turn = _WritersTurn(Path(self.engine.url.database))
        self._clock = clock or _database_clock

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction that writes; on SQLite it takes the write lock at once."""
        with self._turn, self.engine.connect() as conn, conn.begin():
            yield Transaction(conn=conn, now=self._clock(conn))

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that only reads and never waits for a writer."""
        with self.engine.connect() as conn:
            reader = conn.execution_options(read_only=True)
            with reader.begin():
                yield Transaction(conn=reader, now=self._clock(reader))

    def flush_log(self) -> None:
        """Empty SQLite's log, in which deleted rows may still stand; a busy one is left alone."""
        if self.is_sqlite:
            raw = self.engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                raw.close()

    def dispose(self) -> None:
        self.engine.dispose()


class _WritersTurn:
    """SQLite has one writer: those of this host take turns here, threads and processes.

    Its own busy handler sleeps for up to a tenth of a second between tries, where a writer takes
    a few milliseconds: one process may write again and again while another waits for seconds.
    The kernel frees the file's lock when its process dies, however that dies.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(f"{database.name}-turn")
        self._threads = Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        deadline = time.monotonic() + SQLITE_TURN_WITHIN_S
        if not self._threads.acquire(timeout=SQLITE_TURN_WITHIN_S):
            raise sa.exc.TimeoutError(f"{self._path.name}: no turn to write for too long")
        try:
            self._take(deadline)
        except OSError as error:  # the file is another user's
            self._threads.release()
            raise sa.exc.TimeoutError(f"{self._path}: {error.strerror}") from error
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_exception: object) -> None:
        try:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _take(self, deadline: float) -> None:
        """After the deadline it is SQLite that waits, and says that it is locked."""
        if self._file is None:
            self._file = ownership.open_file(self._path, os.O_RDWR)
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(SQLITE_TURN_EVERY_S)


def _database_clock(conn: Connection) -> datetime:
    if conn.dialect.name == "sqlite":  # SQLite's clock is this host's
        return datetime.now(UTC)
    now: datetime = conn.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


def _make_engine(url: str) -> Engine:
    """Errors hide what was in their statement: Celery logs what a task raises."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _make_sqlite_engine(parsed)
    parsed = parsed.set(drivername="postgresql+psycopg")
    options = {
        "synchronous_commit": "on",
        "statement_timeout": POSTGRESQL_STATEMENT_TIMEOUT_S * 1000,
        # The server's own side: a client whose host is lost in the middle of a transaction would
        # else keep its row locks for the two hours of the kernel's keepalive.
        "tcp_user_timeout": POSTGRESQL_SILENCE_MAX_S * 1000,
        "tcp_keepalives_idle": POSTGRESQL_SILENCE_MAX_S // 2,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
    }
    return sa.create_engine(
        parsed,
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=28,
        pool_timeout=5,
        hide_parameters=True,  # an error would quote them
        connect_args={
            "connect_timeout": POSTGRESQL_CONNECT_TIMEOUT_S,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "tcp_user_timeout": POSTGRESQL_SILENCE_MAX_S * 1000,
            "keepalives_idle": POSTGRESQL_SILENCE_MAX_S // 2,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    )


def _make_sqlite_engine(url: sa.URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        pool_size=4,
        max_overflow=28,
        pool_timeout=SQLITE_BUSY_TIMEOUT_S,
        hide_parameters=True,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
    )

    @sa.event.listens_for(engine, "do_connect")
    def make_file(*_: Any) -> None:
        if url.database:
            with suppress(OSError):  # SQLite will say so
                os.close(ownership.open_file(Path(url.database), os.O_RDONLY, 0o644))

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # sqlite3 must not begin on its own
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        reads = conn.get_execution_options().get("read_only", False)
        # A deferred writer that finds the lock taken fails at once instead of waiting.
        conn.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
