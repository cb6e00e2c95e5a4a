"""The web process as `cxr-worker web` starts it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import sqlalchemy as sa

from db.engine import Database
from tests.support.system import command, wait_for
from worker import home
from worker.errors import WorkerError
from worker.web.server import bind


def test_a_port_that_is_taken_names_the_setting() -> None:
    with bind("127.0.0.1", 0, "CXR_WEB_PORT") as first:
        first.listen()
        with pytest.raises(WorkerError, match="CXR_WEB_PORT to a free port"):
            bind("127.0.0.1", first.getsockname()[1], "CXR_WEB_PORT")


def test_the_command_serves_page_api_and_metrics_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    env = {"CXR_HOME_DIR": str(folder), "CXR_WEB_PORT": "0", "CXR_METRICS_PORT": "0"}
    assert command("db", "upgrade", env=env).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "web"], env={"PATH": "/usr/bin:/bin", **env}
    )
    try:
        metrics = wait_for("the metrics", lambda: home.published_port(folder, "metrics"))
        page = home.published_port(folder, "web")

        def get(port: int | None, path: str) -> str:
            with urlopen(Request(f"http://127.0.0.1:{port}{path}"), timeout=30) as answer:
                text: str = answer.read().decode()
                return text

        assert "No study here." in get(page, "/")
        assert json.loads(get(page, "/api/v1/studies")) == {"studies": [], "next_cursor": None}
        assert "cxr_database_up 1.0" in get(metrics, "/metrics")
        assert [command(it, "web", env=env).returncode for it in ("health", "ready")] == [0, 0]
        with Database(f"sqlite:///{folder / 'cxr.db'}").begin() as tx:
            tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
        assert [command(it, "web", env=env).returncode for it in ("health", "ready")] == [0, 1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
