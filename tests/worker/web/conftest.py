"""The web application over a real database and a real spool, without a network."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from db import schema
from db.engine import Database
from tests.support import population
from worker.home import spool_folder
from worker.services import make_services
from worker.settings import Settings
from worker.spool import Spool
from worker.web.app import make_app

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MakeClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database of 120 studies, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "cxr.db"
    fill(f"sqlite:///{path}")
    return path


def fill(url: str) -> None:
    database = Database(url)
    schema.upgrade(database)
    population.fill(database, 120)
    database.dispose()


@pytest.fixture
def make_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeClient]:
    """Clients of applications over one database of 120 studies: SQLite, or both where asked for."""
    if "database_url" in request.fixturenames:
        database_url = request.getfixturevalue("database_url")
        fill(database_url)
    else:
        database_url = f"sqlite:///{tmp_path / 'cxr.db'}"
        shutil.copy(request.getfixturevalue("filled"), tmp_path / "cxr.db")
    Spool(spool_folder(tmp_path)).create()
    opened = []

    def make(*, client: tuple[str, int] = ("127.0.0.1", 50000), **settings: object) -> TestClient:
        values = {"home_dir": tmp_path, "database_url": database_url, "spool_reserve_mb": 1}
        services = make_services(Settings.model_validate(values | settings))
        opened.append(services)
        return TestClient(
            make_app(services),
            base_url="http://localhost:8080",
            client=client,
            follow_redirects=False,
            raise_server_exceptions=False,
        )

    yield make
    for services in opened:
        services.database.dispose()


@pytest.fixture
def local(make_client: MakeClient) -> TestClient:
    """Bound to loopback without a token: open to this machine."""
    return make_client()


@pytest.fixture
def guarded(make_client: MakeClient) -> TestClient:
    """With a token, and a client that does not have it."""
    return make_client(web_token=TOKEN)
