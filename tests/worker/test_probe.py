"""What a probe says of processes that hang, are not there, or have lost what they depend on."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.listener import Listener, listening
from tests.support.system import command, wait_for
from worker import embedded, home, probe
from worker.settings import Settings


def _settings(folder: Path, **changes: str) -> Settings:
    return Settings.from_env({"CXR_HOME_DIR": str(folder), **changes})


@contextmanager
def _hanging(folder: Path, role: str) -> Iterator[None]:
    """A process that has the port and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        home.publish_port(folder, deaf.getsockname()[1], role)
        yield


@pytest.mark.parametrize("role", ["listener", "web"])
def test_what_was_never_started_is_unhealthy(tmp_path: Path, role: str) -> None:
    completed = command("health", role, env={"CXR_HOME_DIR": str(tmp_path)})
    assert completed.returncode == 1
    assert "has started" in completed.stderr


@pytest.mark.parametrize("role", ["listener", "web"])
def test_what_has_the_port_but_hangs_is_unhealthy(
    tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.3)
    with _hanging(tmp_path, role), pytest.raises(probe.Unhealthy, match="does not answer"):
        probe.LIVE[role](_settings(tmp_path))


@pytest.mark.parametrize("role", ["listener", "web"])
def test_what_has_gone_is_unhealthy(tmp_path: Path, role: str) -> None:
    with _hanging(tmp_path, role):
        pass
    with pytest.raises(probe.Unhealthy, match="does not answer"):
        probe.LIVE[role](_settings(tmp_path))


def test_a_worker_is_not_blamed_for_a_broker_that_is_away(tmp_path: Path) -> None:
    settings = _settings(tmp_path, CXR_BROKER_URL="redis://127.0.0.1:1/0")
    assert "the broker is not reachable" in probe.worker(settings, "dicom")
    with pytest.raises(probe.Unhealthy, match="the broker is not reachable"):
        probe.worker_ready(settings, "dicom")


def test_a_worker_that_takes_no_messages_is_unhealthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.5)
    broker = subprocess.Popen(embedded.command(tmp_path))
    try:
        wait_for("the broker", embedded.socket_path(tmp_path).exists, 10)
        with pytest.raises(probe.Unhealthy, match="no inference worker"):
            probe.worker(_settings(tmp_path), "inference")
    finally:
        broker.terminate()
        broker.wait(10)


def _health(role: str, running: Listener, **settings: object) -> tuple[int, int, str]:
    """The exit statuses of `health` and `ready`, and what the latter said was wrong."""
    values = {"HOME_DIR": running.home, "SPOOL_RESERVE_MB": 10, **settings}
    env = {f"CXR_{name}": str(value) for name, value in values.items()}
    live, ready = command("health", role, env=env), command("ready", role, env=env)
    return live.returncode, ready.returncode, ready.stderr


def test_a_listener_is_ready_while_a_store_would_not_be_refused(tmp_path: Path) -> None:
    with listening(tmp_path) as running:
        assert _health("listener", running) == (0, 0, "")
        live, ready, said = _health("listener", running, SPOOL_RESERVE_MB=1 << 40)
        assert (live, ready) == (0, 1)
        assert "stores are refused below" in said
        with running.database.begin() as tx:
            tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
        live, ready, said = _health("listener", running)
        assert (live, ready) == (0, 1)
        assert "the database is at schema 0999" in said
        away = f"sqlite:///{running.home}"  # a folder
        live, ready, said = _health("listener", running, DATABASE_URL=away)
        assert (live, ready) == (0, 1)
        assert "the database is not reachable (OperationalError)" in said
    live, ready, said = _health("listener", running)
    assert (live, ready) == (1, 1)
    assert "does not answer" in said
