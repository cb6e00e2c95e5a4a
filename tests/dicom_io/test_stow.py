"""STOW-RS against a real HTTP server of our own; Orthanc's is in tests/peers."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicom_io import stow
from dicom_io.association import Timeouts
from dicom_io.destination import Tls, WebDestination
from dicom_io.errors import DestinationUnavailable
from dicom_io.scu import SendObject
from tests.support.peers import free_port
from tests.support.tls import make_certificate

SR = "1.2.840.10008.5.1.4.1.1.88.34"


class Server:
    """Answers what it is told to, and keeps what it gets."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections: set[Any] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.connections.add(self.client_address)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), body))
                status, answer = outer.answers.pop(0) if outer.answers else (200, b"{}")
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://localhost:{self._server.server_port}/dicom-web/studies"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def an_object(uid: str, payload: bytes = b"Part 10") -> SendObject:
    return SendObject(
        sop_class_uid=SR,
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        payload=payload,
    )


def store(destination: WebDestination, *uids: str) -> list[tuple[int | None, str | None, bool]]:
    with stow.storing(destination) as peer:
        results = [peer.store(an_object(uid)) for uid in uids]
    return [(it.status, it.error, it.refused) for it in results]


def failed(uid: str, reason: int) -> bytes:
    item = {
        "00081150": {"vr": "UI", "Value": [SR]},
        "00081155": {"vr": "UI", "Value": [uid]},
        "00081197": {"vr": "US", "Value": [reason]},
    }
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


def test_each_object_is_one_part_of_its_own_bytes_over_one_connection(server: Server) -> None:
    assert store(WebDestination(url=server.url), "1.1", "1.2") == [(0, None, False)] * 2
    path, headers, body = server.requests[0]
    assert path == "/dicom-web/studies"
    assert headers["Accept"] == "application/dicom+json"
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; ')
    boundary = headers["Content-Type"].rpartition("boundary=")[2].encode()
    head, content = body.split(b"\r\n\r\n", 1)
    assert head == b"--" + boundary + b"\r\nContent-Type: application/dicom"
    assert content == b"Part 10\r\n--" + boundary + b"--\r\n"
    assert len(server.connections) == 1


def test_what_the_server_refuses_is_the_objects_fault_and_the_next_is_sent(server: Server) -> None:
    server.answers = [
        (409, failed("1.1", 0xA700)),
        (202, failed("1.2", 0x0122)),
        (413, b"too large"),
        (400, b""),
        (202, failed("9.9", 0xA700)),  # of another object
        (200, b"<xml/>"),
    ]
    assert store(WebDestination(url=server.url), "1.1", "1.2", "1.3", "1.4", "1.5", "1.6") == [
        (0xA700, "refused with failure reason 0xA700", False),  # no room, for whatever object
        (0x0122, "refused with failure reason 0x0122", True),
        (None, "refused with HTTP 413", True),
        (None, "refused with HTTP 400", True),
        (0, None, False),
        (0, None, False),
    ]


@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
def test_what_concerns_the_server_makes_it_unavailable(server: Server, status: int) -> None:
    server.answers = [(status, b"")]
    with pytest.raises(DestinationUnavailable, match=f"HTTP {status}"):
        store(WebDestination(url=server.url), "1.1")
    assert len(server.requests) == 1  # no redirect is followed, nothing is tried twice


@pytest.mark.parametrize("answer", [b"[1]", b'{"00081198": 7}', b"x" * (2 << 20), b"\xff"])
def test_a_strange_answer_is_no_more_than_its_status(server: Server, answer: bytes) -> None:
    server.answers = [(200, answer), (409, answer)]
    assert store(WebDestination(url=server.url), "1.1", "1.2") == [
        (0, None, False),
        (None, "refused with HTTP 409", True),
    ]


def test_the_token_is_read_for_each_delivery_and_never_said(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    destination = WebDestination(url=server.url, token_file=token)
    with pytest.raises(DestinationUnavailable, match="cannot be used"):
        store(destination, "1.1")
    for secret in ("first", "second"):
        token.write_text(f"{secret}\n")
        store(destination, "1.1")
    sent = [headers["Authorization"] for _, headers, _ in server.requests]
    assert sent == ["Bearer first", "Bearer second"]
    server.answers = [(401, b"")]
    with pytest.raises(DestinationUnavailable) as caught:
        store(destination, "1.1")
    assert "second" not in str(caught.value)


def test_a_server_that_is_not_there_or_does_not_answer_is_unavailable() -> None:
    with pytest.raises(DestinationUnavailable, match="cannot connect"):
        store(WebDestination(url=f"http://127.0.0.1:{free_port()}/studies"), "1.1")
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # accepts, says nothing
    destination = WebDestination(url=f"http://127.0.0.1:{silent.server_port}/studies")
    with (
        pytest.raises(DestinationUnavailable, match="no answer in time"),
        stow.storing(destination, Timeouts(dimse_s=0.3)) as peer,
    ):
        peer.store(an_object("1.1"))
    silent.server_close()


def test_tls_takes_the_ca_that_is_named_and_no_other(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Server(context)
    try:
        trusted = WebDestination(url=server.url, tls=Tls(ca_file=cert))
        assert store(trusted, "1.1") == [(0, None, False)]
        with pytest.raises(DestinationUnavailable, match="certificate is not trusted"):
            store(WebDestination(url=server.url), "1.1")
        other = server.url.replace("localhost", "127.0.0.1")
        with pytest.raises(DestinationUnavailable, match="names another host"):
            store(WebDestination(url=other, tls=Tls(ca_file=cert)), "1.1")
    finally:
        server.close()
