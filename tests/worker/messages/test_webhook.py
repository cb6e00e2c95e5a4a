"""Webhooks: what they say, that the receiver of the docs checks them, and what may go wrong."""

import base64
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import deliveries
from dicom_io import association
from dicom_io.destination import Tls
from tests.support.outbox import Outbox
from tests.support.peers import free_port
from tests.support.system import wait_for
from tests.support.tls import make_certificate
from tests.worker.messages.test_hl7 import TOLD
from worker import deliver
from worker.destinations import MESSAGES, Recipient
from worker.messages import made, webhook
from worker.messages.address import WebhookDestination

ROOT = Path(__file__).resolve().parents[3]
KEY = b"k" * 32
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


class Receiver:
    """Answers with `status`; keeps what came. A status of 0 hangs."""

    def __init__(self, *tls: Path) -> None:
        self.status = 204
        self.headers: dict[str, str] = {}
        self.received: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append((dict(self.headers), body))
                if outer.status == 0:
                    time.sleep(5)
                    return
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    while outer.headers.get("X-Endless"):
                        self.wfile.write(b"A" * 65536)
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/cxr"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_address[1]}/cxr"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()


def _recipient(url: str, secret_file: Path, **options: Any) -> Recipient:
    address = WebhookDestination(url=url, secret_file=secret_file, **options)
    return Recipient(name="pager", address=address, objects=MESSAGES)


def _documents(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.received]


def test_a_result_is_told_without_the_patient_and_once(
    receiver: Receiver, secret_file: Path, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, _recipient(receiver.url, secret_file))
    uid, _ = waiting.add_report(1)
    assert deliver.deliver(waiting.services, "pager") == 1
    assert deliver.deliver(waiting.services, "pager") == 0
    (document,) = _documents(receiver)
    assert document["event"] == document["band"] == "positive"
    assert document["probability"] == 0.81
    assert document["sr_sop_instance_uid"] == uid
    assert not document["corrects_an_earlier_result"]
    assert "Not for diagnostic use" in document["statement"]
    assert {"patient", "accession_number"}.isdisjoint(document)


def test_the_patient_is_named_only_where_the_destination_says_so() -> None:
    without = webhook.result_body(TOLD, with_patient=False)
    for word in (b"P-1", b"Family", b"2022", b"ACC-1"):
        assert word not in without
    named = json.loads(webhook.result_body(TOLD, with_patient=True))
    assert named["accession_number"] == "ACC-1"
    assert named["patient"] == {
        "id": "P-1",
        "issuer": "HOSPITAL",
        "name": "Family^Given^Middle^Dr^Jr",
        "birth_date": "2022-05-06",
        "sex": "F",
    }


def test_only_the_events_of_the_destination_are_told_and_then_their_corrections(
    receiver: Receiver, secret_file: Path, tmp_path: Path
) -> None:
    waiting = Outbox(tmp_path, _recipient(receiver.url, secret_file, events=("negative",)))
    waiting.add_report(1)  # positive
    assert deliver.deliver(waiting.services, "pager") == 0
    settings = waiting.services.settings.model_copy(
        update={"destinations": (_recipient(receiver.url, secret_file),)}
    )
    waiting.services = replace(waiting.services, settings=settings)
    waiting.add_report(1)
    settings = settings.model_copy(
        update={"destinations": (_recipient(receiver.url, secret_file, events=("failed",)),)}
    )
    waiting.services = replace(waiting.services, settings=settings)
    waiting.add_report(1)  # told before, so told of this as well
    waiting.add_report(2)  # never told
    assert deliver.deliver(waiting.services, "pager") == 2
    assert [it["study_instance_uid"] for it in _documents(receiver)] == ["1.2.1", "1.2.1"]
    assert _documents(receiver)[1]["corrects_an_earlier_result"]


def test_a_report_that_could_not_be_made_is_told_to_who_asked_for_that(secret_file: Path) -> None:
    wants = _recipient("https://a.example/x", secret_file, events=("failed",))
    other = _recipient("https://b.example/x", secret_file)
    (message,) = made.of_failure("1.2.3", 4, TOLD.created_at, [wants, other])
    document = json.loads(message.payload)
    assert (document["event"], document["study_instance_uid"]) == ("failed", "1.2.3")


@pytest.mark.parametrize(
    ("status", "state", "error"),
    [
        (500, "pending", "answers with HTTP 500"),
        (429, "pending", "answers with HTTP 429"),
        (302, "pending", "answers with HTTP 302"),
        (422, "pending", "refused with HTTP 422"),
        (410, "failed", "refused with HTTP 410"),
        (0, "pending", "no answer in time"),
    ],
)
def test_each_answer_has_its_meaning(
    receiver: Receiver,
    secret_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    state: str,
    error: str,
) -> None:
    short = association.Timeouts(dimse_s=1)
    monkeypatch.setattr(webhook, "Timeouts", lambda: short)
    receiver.status = status
    elsewhere = Receiver()
    receiver.headers = {"Location": elsewhere.url}
    waiting = Outbox(tmp_path, _recipient(receiver.url, secret_file))
    waiting.add_report(1)
    deliver.deliver(waiting.services, "pager")
    assert waiting.states()[0][1] == state
    assert error in (waiting.states()[0][3] or "")
    assert elsewhere.received == []
    elsewhere.server.shutdown()
    if state == "pending":
        receiver.status = 200
        waiting.make_due()
        assert deliver.deliver(waiting.services, "pager") == 1
        ids = {headers["webhook-id"] for headers, _ in receiver.received}
        assert len(ids) == 1


def test_the_certificate_is_checked(secret_file: Path, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    receiver = Receiver(cert, key)
    trusting = _recipient(receiver.url, secret_file, tls=Tls(ca_file=cert))
    waiting = Outbox(tmp_path, replace(_recipient(receiver.url, secret_file), name="x"), trusting)
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, "x") == 0
    assert "TLS failed" in (waiting.states()[0][3] or "")
    assert receiver.received == []
    assert deliver.deliver(waiting.services, "pager") == 1
    receiver.server.shutdown()


def test_an_answer_without_end_is_not_read(
    receiver: Receiver, secret_file: Path, tmp_path: Path
) -> None:
    receiver.headers = {"X-Endless": "yes"}
    waiting = Outbox(tmp_path, _recipient(receiver.url, secret_file))
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, "pager") == 1


def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, secret_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    waiting = Outbox(tmp_path, _recipient(receiver.url, secret_file))
    waiting.add_report(1)
    assert deliver.deliver(waiting.services, "pager") == 1


def test_a_withdrawal_takes_back_and_repeats_no_result() -> None:
    sent = webhook.result_body(TOLD, with_patient=True)
    document = json.loads(webhook.withdrawal_body(sent, "quality", TOLD.created_at))
    assert document["event"] == "withdrawn"
    assert document["reason"] == "quality"
    assert document["patient"]["id"] == "P-1"
    assert {"probability", "band", "conclusion"}.isdisjoint(document)


@contextmanager
def _example(folder: Path) -> Iterator[tuple[str, Path]]:
    """The receiver of docs/DESTINATIONS.md, as it stands there."""
    page = (ROOT / "docs" / "DESTINATIONS.md").read_text()
    port = free_port()
    code = page.split("```python\n")[1].split("```")[0].replace("8000", str(port))
    script, out = folder / "receiver.py", folder / "out"
    script.write_text(code)
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, script],
            env=os.environ | {"WEBHOOK_SECRET": SECRET},
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
    try:
        wait_for("the receiver of the docs", lambda: _status(port, b"", {}) is not None)
        yield f"http://127.0.0.1:{port}/", out
    finally:
        process.kill()
        process.wait()


def _status(port: int, body: bytes, headers: dict[str, str]) -> int | None:
    signed = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,"} | headers
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", body, signed, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return None


def test_the_receiver_of_the_docs_takes_ours_and_nothing_else(
    secret_file: Path, tmp_path: Path
) -> None:
    with _example(tmp_path) as (url, out):
        waiting = Outbox(tmp_path, _recipient(url, secret_file))
        waiting.add_report(1)
        assert deliver.deliver(waiting.services, "pager") == 1
        (told,) = [json.loads(line) for line in out.read_text().splitlines()]
        assert told["study_instance_uid"] == "1.2.1"
        with waiting.database.read() as tx:
            body = deliveries.payload(tx, waiting.deliveries()[0]["object_id"])
        assert body is not None
        port, now = int(url.split(":")[2].strip("/")), int(time.time())

        def headers(at: int, key: bytes = KEY, id_: str = "a") -> dict[str, str]:
            assert body is not None
            signed = webhook.signature(key, id_, at, body)
            return {
                "webhook-id": id_,
                "webhook-timestamp": str(at),
                "webhook-signature": signed,
            }

        assert _status(port, body, headers(now)) == 204
        assert _status(port, body, headers(now)) == 204  # again: taken for done
        assert _status(port, body, headers(now - 3600, id_="b")) == 400  # a replay
        assert _status(port, body + b" ", headers(now, id_="c")) == 400  # altered
        assert _status(port, body, headers(now, b"another key", id_="d")) == 400
        assert len(out.read_text().splitlines()) == 2


def test_the_probe_is_signed_and_says_that_it_is_a_test(
    receiver: Receiver, secret_file: Path
) -> None:
    address = WebhookDestination(url=receiver.url, secret_file=secret_file)
    assert "HTTP 204" in webhook.probe(address)
    ((headers, body),) = receiver.received
    assert json.loads(body)["event"] == "test"
    at = int(headers["webhook-timestamp"])
    expected = webhook.signature(KEY, headers["webhook-id"], at, body)
    assert headers["webhook-signature"] == expected
