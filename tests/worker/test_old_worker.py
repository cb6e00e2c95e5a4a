"""Every role refuses a database that a newer version has made, and says so."""

import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import schema
from db.engine import Database
from tests.support.system import command


@pytest.fixture(scope="module")
def home_of_a_newer_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("newer")
    database = Database(f"sqlite:///{home / 'cxr.db'}")
    schema.upgrade(database)
    with database.begin() as tx:
        tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    database.dispose()
    return home


@pytest.mark.parametrize(
    "arguments",
    ["listen", "work --role dicom", "work --role inference", "web", "up", "db upgrade", "results"],
)
def test_an_older_worker_beside_a_newer_schema_is_refused(
    home_of_a_newer_version: Path, arguments: str
) -> None:
    env = {"CXR_HOME_DIR": str(home_of_a_newer_version), "CXR_DICOM_PORT": "0", "CXR_WEB_PORT": "0"}
    completed: subprocess.CompletedProcess[str] = command(*arguments.split(), env=env)
    assert completed.returncode == 2, completed.stderr
    assert "schema 0999, made by a newer cxr-worker" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_role_that_finds_no_database_says_so_in_one_line(tmp_path: Path) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:9/none"
    env = {"CXR_HOME_DIR": str(tmp_path), "CXR_DATABASE_URL": url}
    completed: subprocess.CompletedProcess[str] = command("listen", env=env)
    assert completed.returncode == 1  # and whoever keeps it running starts it again
    assert completed.stderr == "cxr-worker: the database does not answer (OperationalError)\n"
