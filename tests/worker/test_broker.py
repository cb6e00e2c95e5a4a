"""The broker as others may run it: with a password, over TLS; and what its messages may hold."""

import pickle
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from tests.support.peers import free_port
from tests.support.system import command, wait_for
from tests.support.tls import Authority, tls_in_front_of
from worker import embedded
from worker.celery_app import DICOM_QUEUE, make_app
from worker.errors import BadSettings
from worker.notify import send
from worker.reconcile import queue_lengths
from worker.settings import Settings

PASSWORD = "correct-horse"
Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Valkey server on a free port, which it returns."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*options: object) -> int:
        port, binary = free_port(), embedded.command(tmp_path)[0]
        places = [str(port) if it == "PORT" else str(it) for it in options]
        argv = [binary, "--save", "", "--dir", str(tmp_path), "--requirepass", PASSWORD, *places]
        started.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL))
        return port

    yield run
    for process in started:
        process.kill()
        process.wait()


def _lengths(**settings: object) -> dict[str, int]:
    app = make_app(Settings.model_validate(settings).broker, publish_only=True)
    return queue_lengths(app)


def _answers(**settings: object) -> dict[str, int] | None:
    try:
        return _lengths(**settings)
    except OperationalError:
        return None


# As the listener does; what is imported after the fork is in the memory of each of its processes.
LATE_IMPORTS = """
import sys, time
from worker.celery_app import make_app, preload
from worker.notify import send
from worker.supervisor import Forked
preload(make_app(sys.argv[1], publish_only=True))
before = set(sys.modules)

def child():
    sent = send(make_app(sys.argv[1], publish_only=True), "prepare", "1")
    late = [name for name in set(sys.modules) - before if name.split(".")[0] in
            ("redis", "kombu", "celery")]
    print(sent, *late, flush=True)

forked = Forked("child", child)
forked.start()
while forked.check() is None:
    time.sleep(0.05)
"""


def test_what_sends_is_imported_before_processes_fork(start: Start, tmp_path: Path) -> None:
    port = start("--port", "PORT", "--bind", "127.0.0.1")
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    assert wait_for("the broker", lambda: _answers(broker_url=url), 20)
    nobody = f"redis://127.0.0.1:{free_port()}/0"  # not asked while importing
    for broker, sent in [(url, "True"), (nobody, "False")]:
        argv = [sys.executable, "-c", LATE_IMPORTS, broker]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.split() == [sent]


def test_a_password_is_used_and_never_said(start: Start, tmp_path: Path) -> None:
    port = start("--port", "PORT", "--bind", "127.0.0.1")
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    assert wait_for("the broker", lambda: _answers(broker_url=url), 20)
    app = make_app(url, publish_only=True)
    assert send(app, "prepare", "1.2.3")
    assert queue_lengths(app)[DICOM_QUEUE] == 1
    env = {"CXR_HOME_DIR": str(tmp_path), "CXR_BROKER_URL": url, "CXR_DESTINATIONS": ""}
    said = [command(*it, env=env) for it in (["db", "upgrade"], ["check"], ["status", "--json"])]
    assert "messages in" in said[1].stdout
    wrong = {**env, "CXR_BROKER_URL": f"redis://:not-{PASSWORD}@127.0.0.1:{port}/0"}
    said += [command(*it, env=wrong) for it in (["check"], ["status"])]
    assert "broker: not reachable" in said[3].stderr
    for done in said:
        assert PASSWORD not in done.stdout + done.stderr


def test_over_tls_the_brokers_certificate_is_checked(start: Start, tmp_path: Path) -> None:
    authority, others = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Other CA")
    server, client = authority.issue("broker"), authority.issue("worker")
    plain = start("--port", "PORT", "--bind", "127.0.0.1")  # its package has no TLS of its own
    with tls_in_front_of(plain, server, authority.cert) as port:
        url = f"rediss://:{PASSWORD}@localhost:{port}/0"
        known = {"broker_tls_cert": client.cert, "broker_tls_key": client.key}
        ours = {"broker_url": url, "broker_tls_ca": authority.cert, **known}
        assert wait_for("the broker", lambda: _answers(**ours), 20)
        assert _answers(**{**ours, "broker_tls_ca": others.cert}) is None
        assert _answers(**{**ours, "broker_url": url.replace("localhost", "127.0.0.2")}) is None
        assert _answers(broker_url=url, **known) is None  # by the system's CAs
        assert _answers(broker_url=url, broker_tls_ca=authority.cert) is None  # it wants ours


def test_checking_cannot_be_turned_off_by_the_url() -> None:
    with pytest.raises(BadSettings, match="CXR_BROKER_TLS_CA"):
        Settings.from_env({"CXR_BROKER_URL": "rediss://h/0?ssl_cert_reqs=none"})


def test_no_secret_is_in_what_settings_print() -> None:
    settings = Settings.from_env(
        {
            "CXR_BROKER_URL": f"rediss://:{PASSWORD}@h/0",
            "CXR_DATABASE_URL": f"postgresql://u:{PASSWORD}@h/d",
            "CXR_WEB_TOKEN": f"{PASSWORD}-of-the-page",
        }
    )
    assert PASSWORD in settings.broker
    for printed in (repr(settings), str(settings), settings.model_dump_json()):
        assert PASSWORD not in printed
    with pytest.raises(BadSettings) as caught:
        Settings.from_env({"CXR_WEB_TOKEN": "hunter2", "CXR_BROKER_URL": f"http://:{PASSWORD}@h"})
    assert "hunter2" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_pickled_message_is_never_opened(start: Start, tmp_path: Path) -> None:
    """The worker takes JSON only: a pickle in the queue runs nothing."""
    port = start("--port", "PORT", "--bind", "127.0.0.1")
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    wait_for("the broker", lambda: _answers(broker_url=url), 20)
    target = tmp_path / "opened"

    class Bomb:
        def __reduce__(self) -> object:
            return (Path.touch, (target,))

    app, ran = make_app(url), threading.Event()
    assert app.conf.accept_content == ["json"]
    assert (app.conf.task_serializer, app.conf.event_serializer) == ("json", "json")

    @app.task(name="cxr.test")
    def test(_key: str) -> None:
        ran.set()

    pickled = b64encode(pickle.dumps(([Bomb()], {}, {}))).decode()
    with app.connection_for_write() as connection:
        connection.Producer().publish(
            pickled,
            routing_key=DICOM_QUEUE,
            content_type="application/x-python-serialize",
            content_encoding="utf-8",
            headers={"task": "cxr.test", "id": "1", "lang": "py"},
        )
    app.send_task("cxr.test", args=["after"], queue=DICOM_QUEUE)
    worker = app.Worker(pool="solo", concurrency=1, queues=[DICOM_QUEUE], loglevel="CRITICAL")
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    assert ran.wait(60)  # what came after it
    assert not target.exists()
    worker.stop()
