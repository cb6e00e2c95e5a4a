"""Who the listener does not let in, what they are told, and what is written of it."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE

from tests.support import dicom, upper_layer
from tests.support.audit import event, study, trail
from tests.support.listener import Listener, listening
from tests.support.system import command, wait_for
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    allowed = {"ALLOWED_CALLING_AE_TITLES": "SENDER,PACS", "ALLOWED_IPS": "127.0.0.0/30"}
    with listening(tmp_path_factory.mktemp("listener"), **allowed) as running:
        yield running


def _reason(listener: Listener, calling: str, called: str) -> tuple[int, int, int]:
    """Result, source and diagnostic of the A-ASSOCIATE-RJ."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(dicom.CR)
    association = ae.associate("127.0.0.1", listener.port, ae_title=called)
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert answer is not None
    return answer.result, answer.result_source, answer.diagnostic  # type: ignore[return-value]


def test_a_wrong_ae_title_is_rejected_by_its_own_reason(listener: Listener) -> None:
    assert _reason(listener, "STRANGER", "CXR_WORKER") == (1, 1, 3)
    assert _reason(listener, "SENDER", "SOMEBODY") == (1, 1, 7)


def test_an_address_that_is_not_allowed_gets_no_answer_at_all(listener: Listener) -> None:
    with socket.create_connection(
        ("127.0.0.1", listener.port), 10, source_address=("127.0.0.9", 0)
    ) as peer:
        peer.settimeout(10)
        assert _until_closed(peer) == b""


def _until_closed(peer: socket.socket) -> bytes:
    try:
        peer.sendall(upper_layer.associate_request())
        return peer.recv(1000)
    except ConnectionError:
        return b""


def test_refusals_and_transfers_are_audited_without_the_patient(
    listener: Listener, tmp_path: Path
) -> None:
    _reason(listener, "STRANGER", "CXR_WORKER")
    test_an_address_that_is_not_allowed_gets_no_answer_at_all(listener)
    ds = dicom.chest()
    paths = [dicom.write(ds, tmp_path), dicom.write(dicom.chest(ds.StudyInstanceUID), tmp_path)]
    assert [it.status for it in listener.send(paths)] == [0, 0]

    def transferred() -> list[object]:
        return [it for it in trail(listener.home) if event(it) == "DICOM Instances Transferred"]

    wait_for("the end of the transfer", transferred, 30)
    messages = trail(listener.home)
    kinds = [event(it) for it in messages]
    assert kinds[0] == "Application Activity: Application Start"
    alerts = [it for it in messages if event(it) == "Security Alert: Node Authentication"]
    said = {it.xpath("string(EventIdentification/EventOutcomeDescription)") for it in alerts}
    assert {"calling AE title not allowed", "address not allowed"} <= said
    peers = {it.xpath("ActiveParticipant/@NetworkAccessPointID")[0] for it in alerts}
    assert {"127.0.0.1", "127.0.0.9"} <= peers
    (done,) = transferred()
    assert study(done) == ds.StudyInstanceUID  # type: ignore[arg-type]
    assert done.xpath("//SOPClass/@NumberOfInstances") == ["2"]  # type: ignore[attr-defined]
    text = (listener.home / "audit" / "audit.xml").read_text() + listener.log
    for patient in ("Canary", "PID-1", "ACC-1", "20230601"):
        assert patient not in text


@pytest.mark.parametrize("by", ["address", "certificate"])
def test_a_probe_is_let_be_and_whoever_else_calls_from_here_is_refused(
    tmp_path: Path, by: str
) -> None:
    settings: dict[str, object] = {"ALLOWED_IPS": "192.0.2.0/24"}
    if by == "certificate":
        ca = Authority(tmp_path / "ca")
        server = ca.issue("server")
        settings = {
            "LISTENER_TLS_PORT": 0,
            "LISTENER_TLS_CERT": server.cert,
            "LISTENER_TLS_KEY": server.key,
            "LISTENER_TLS_CA": ca.cert,
            "LISTENER_PLAIN": "off",
        }
    with listening(tmp_path, **settings) as running:
        env = {f"CXR_{name}": str(value) for name, value in settings.items()}
        env["CXR_HOME_DIR"] = str(running.home)
        assert command("health", "listener", env=env).returncode == 0
        port = running.port if by == "address" else running.tls_port
        if by == "certificate":
            socket.create_connection(("127.0.0.1", port), 10).close()  # as a load balancer does
        with socket.create_connection(("127.0.0.1", port), 10) as peer:
            peer.settimeout(10)
            assert _until_closed(peer)[:1] in (b"", b"\x15")  # nothing, or a TLS alert
        wait_for("the refusal", lambda: "refused: " in running.log)
        assert running.log.count("refused: ") == 1
    alerts = [it for it in trail(running.home) if event(it).startswith("Security Alert")]
    assert len(alerts) == 1


def test_what_commands_show_and_erase_is_audited(tmp_path: Path) -> None:
    ds = dicom.chest()
    with listening(tmp_path) as running:
        assert [it.status for it in running.send([dicom.write(ds, tmp_path)])] == [0]
        env = {"CXR_HOME_DIR": str(running.home)}
        uid = ds.StudyInstanceUID
        for arguments in (
            ["results", "--patient", "PID-1"],
            ["show", uid],
            ["forget", uid, "--yes"],
        ):
            done = command(*arguments, env=env)
            assert done.returncode == 0, done.stderr
    found = {event(it): it for it in trail(running.home)}
    assert sorted(found) == [
        "Application Activity: Application Start",
        "Application Activity: Application Stop",
        "Begin Transferring DICOM Instances",
        "DICOM Instances Accessed",
        "DICOM Instances Transferred",
        "DICOM Study Deleted",
        "Query",
    ]
    assert study(found["DICOM Study Deleted"]) == uid
    assert "PID-1" not in (running.home / "audit" / "audit.xml").read_text()


def test_dcmtk_is_told_why(listener: Listener) -> None:
    from tests.support.peers import tool

    argv = [tool("echoscu"), "-aet", "STRANGER", "-aec", "CXR_WORKER", "127.0.0.1",
            str(listener.port)]  # fmt: skip
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr
