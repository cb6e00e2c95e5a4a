"""The audit trail: what the schema asks for, where it goes, and that nobody waits for it."""

import logging
import os
import socket
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_io.destination import Tls
from tests.support.audit import event, parsed, study, trail, users
from tests.support.system import command, wait_for
from tests.support.tls import Authority
from worker import audit as audit_module
from worker import audit_message as messages
from worker.audit import Audit
from worker.audit_message import Message, Participant, Transfer
from worker.audit_sink import FileSink, Record, SyslogSink
from worker.errors import BadSettings
from worker.settings import Settings

AT = datetime(2026, 11, 26, 3, 4, 5, tzinfo=UTC)
USER = Participant(user_id="dr.who", is_requestor=True, address="192.0.2.7")
TRANSFER = Transfer(
    peer="PACS", peer_address="192.0.2.9", is_incoming=True, study_instance_uid="1.2.3"
)
ALL = {
    "Application Activity: Application Start": messages.application("US", "web", started=True),
    "Application Activity: Application Stop": messages.application("US", "web", started=False),
    "Security Alert: Node Authentication": messages.refused_peer("US", "::1", "", "no TLS"),
    "Begin Transferring DICOM Instances": messages.transfer("US", TRANSFER, {}, done=False),
    "DICOM Instances Transferred": messages.transfer("US", TRANSFER, {"1.2": 3}, done=True),
    "DICOM Instances Accessed": messages.accessed(USER, "1.2.3", patient_id="P-1"),
    "Export": messages.exported(USER, "1.2.3"),
    "DICOM Study Deleted": messages.deleted(USER, "1.2.3"),
    "Query": messages.queried("US", USER, "results", "band, since"),
    "User Authentication: Login": messages.signed_in("US", USER, failed=True),
    "User Authentication: Logout": messages.signed_in("US", USER, leaves=True),
}


class Kept:
    """A sink that keeps what it is given, once it may."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.is_open = threading.Event()
        self.is_open.set()

    def write(self, record: Record) -> None:
        self.is_open.wait()
        self.records.append(record)

    def close(self) -> None: ...


class Failing(Kept):
    def write(self, record: Record) -> None:
        raise OSError(28, "No space left on device")


class FailingOnce(Kept):
    """One that fails at the second of two transfers that end together."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = False

    def write(self, record: Record) -> None:
        if len(self.records) == 3 and not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        super().write(record)


def _xml(message: Message) -> bytes:
    return messages.encode(message, at=AT, source_id="US@here")


@pytest.mark.parametrize("name", ALL)
def test_every_message_keeps_to_the_schema(name: str) -> None:
    xml = _xml(ALL[name])
    assert event(parsed(xml)) == name
    assert b"\n" not in xml


def test_a_message_says_who_what_when_and_how_it_ended() -> None:
    root = parsed(_xml(ALL["DICOM Instances Transferred"]))
    assert root.xpath("EventIdentification/@EventDateTime") == ["2026-11-26T03:04:05.000+00:00"]
    assert root.xpath("EventIdentification/@EventOutcomeIndicator") == ["0"]
    assert users(root) == ["PACS", str(os.getpid())]
    assert root.xpath("ActiveParticipant/@AlternativeUserID") == ["AETITLES=PACS", "AETITLES=US"]
    assert root.xpath("ActiveParticipant/RoleIDCode/@csd-code") == ["110153", "110152"]
    assert root.xpath("ActiveParticipant/@NetworkAccessPointTypeCode") == ["2"]
    assert (study(root), root.xpath("//SOPClass/@NumberOfInstances")) == ("1.2.3", ["3"])
    failed = parsed(_xml(ALL["User Authentication: Login"]))
    assert failed.xpath("EventIdentification/@EventOutcomeIndicator") == ["4"]


@given(st.text(max_size=400), st.text(max_size=400))
def test_whatever_a_peer_calls_itself_is_kept_as_text(title: str, reason: str) -> None:
    root = parsed(_xml(messages.refused_peer("US", "192.0.2.1", title, f"x{reason}")))
    assert len(root.xpath("ParticipantObjectIdentification")) == 1


def test_what_is_received_is_reported_when_it_begins_and_with_counts_when_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "ENDED_AFTER_S", 0.3)
    monkeypatch.setattr(audit_module, "_LOOK_EVERY_S", 0.05)
    kept = Kept()
    audit = Audit(kept, ae_title="US")
    for sop_class in ("1.2.1", "1.2.1", "1.2.2"):
        audit.transferred(TRANSFER, sop_class)
    wait_for("both messages", lambda: len(kept.records) == 2, 10)
    begun, ended = (parsed(it.xml) for it in kept.records)
    assert event(begun) == "Begin Transferring DICOM Instances"
    counts = {it.get("UID"): it.get("NumberOfInstances") for it in ended.iter("SOPClass")}
    assert counts == {"1.2.1": "2", "1.2.2": "1"}
    audit.transferred(TRANSFER, "1.2.1")
    audit.close()  # which ends what is under way
    assert [event(parsed(it.xml)) for it in kept.records[2:]] == [event(begun), event(ended)]


@pytest.mark.parametrize("named", [False, True])
def test_a_patient_is_named_only_where_the_setting_says_so(named: bool) -> None:
    kept = Kept()
    audit = Audit(kept, ae_title="US", with_patient_id=named)
    audit.transferred(
        Transfer(peer="A", peer_address="", is_incoming=True, study_instance_uid="1.2",
                 patient_id="PID-1"), "1.3"
    )  # fmt: skip
    audit.close()
    assert [b"PID-1" in it.xml for it in kept.records] == [named, named]


def test_what_repeats_itself_is_reported_once() -> None:
    kept = Kept()
    audit = Audit(kept, ae_title="US")
    for _ in range(5):
        audit.report(ALL["Query"], once="worklist")
    audit.report(ALL["Query"], once="another")
    audit.close()
    assert len(kept.records) == 2


def test_nobody_waits_for_a_sink_that_hangs_and_what_does_not_fit_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_module, "CLOSE_WITHIN_S", 0.2)
    kept = Kept()
    kept.is_open.clear()
    audit = Audit(kept, ae_title="US")
    began = time.monotonic()
    for _ in range(audit_module.QUEUED_MAX + 100):
        audit.report(ALL["Query"])
    audit.close()
    assert time.monotonic() - began < 60  # a wait for the sink would have no end
    assert 98 <= audit.dropped_count <= 100  # one or two are out of the queue
    assert "audit messages dropped so far: 1" in caplog.text
    kept.is_open.set()


def test_a_sink_that_fails_is_said_once_and_costs_only_what_it_did_not_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = Audit(Failing(), ae_title="US")
    audit.report(ALL["Query"])
    wait_for("the complaint", lambda: "audit messages wait" in caplog.text, 10)
    audit.close()
    wait_for("the count", lambda: audit.dropped_count == 1, 10)
    assert caplog.text.count("No space left on device") == 1


def test_what_was_written_before_a_sink_failed_is_not_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "_RETRY_AFTER_S", 0.05)
    audit = Audit(kept := FailingOnce(), ae_title="US")
    for study_instance_uid in ("1.2.3", "1.2.4"):
        audit.transferred(replace(TRANSFER, study_instance_uid=study_instance_uid), "1.2")
    wait_for("both beginnings", lambda: len(kept.records) == 2, 10)
    monkeypatch.setattr(audit_module, "ENDED_AFTER_S", 0.0)  # now both end at once
    wait_for("both ends", lambda: len(kept.records) == 4, 10)
    audit.close()
    said = [(event(it), study(it)) for it in (parsed(it.xml) for it in kept.records)]
    assert kept.failed
    assert len(said) == len(set(said)) == 4


def test_no_thread_is_left_when_an_application_has_said_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "CLOSE_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"tls://127.0.0.1:{silent.getsockname()[1]}"
        before = threading.enumerate()
        with audit_module.application(Settings(home_dir=tmp_path, audit=url), "listener"):
            assert threading.enumerate() == before


def test_off_means_off(tmp_path: Path) -> None:
    audit = Audit.of(Settings(home_dir=tmp_path, audit="off"))
    audit.report(ALL["Query"])
    audit.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_rotated_bounded_and_its_owners_alone(tmp_path: Path) -> None:
    path, record = tmp_path / "audit" / "audit.xml", Record(xml=b"x" * 999, at=AT)
    sinks = [FileSink(path, 16_000) for _ in range(4)]  # as of four processes
    writers = [
        threading.Thread(target=lambda it=it: [it.write(record) for _ in range(25)]) for it in sinks
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = sorted(path.parent.glob("audit.xml*"))
    assert [it.name for it in files] == ["audit.xml", "audit.xml.1", "audit.xml.2", "audit.xml.3"]
    assert all(line == record.xml for it in files for line in it.read_bytes().splitlines())
    assert sum(it.stat().st_size for it in files) == 16_000
    assert {it.stat().st_mode & 0o777 for it in files} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def _checked(received: bytes) -> None:
    header, _, xml = received.partition(b"\xef\xbb\xbf")
    assert header.startswith(b"<85>1 2026-11-26T03:04:05.000+00:00 ")
    assert header.endswith(f" cxr-worker {os.getpid()} DICOM+RFC3881 - ".encode())
    parsed(xml)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_does_in_the_home_of_another_account_leaves_that_accounts_files(
    tmp_path: Path,
) -> None:
    os.chown(tmp_path, 65534, 65534)
    completed = command("db", "upgrade", env={"CXR_HOME_DIR": str(tmp_path)})
    assert completed.returncode == 0, completed.stderr
    completed = command("results", env={"CXR_HOME_DIR": str(tmp_path)})
    assert completed.returncode == 0, completed.stderr
    made = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*")}
    assert {"audit/audit.xml", "audit/audit.lock", "cxr.db"} <= set(made)
    assert {path.stat().st_uid for path in made.values()} == {65534}


@pytest.mark.parametrize("scheme", ["udp", "unix"])
def test_syslog_by_datagram(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET,
                       socket.SOCK_DGRAM) as server:  # fmt: skip
        server.bind(str(path) if scheme == "unix" else ("127.0.0.1", 0))
        address = str(path) if scheme == "unix" else f"127.0.0.1:{server.getsockname()[1]}"
        sink = SyslogSink(f"{scheme}://{address}", Tls())
        sink.write(Record(xml=_xml(ALL["Query"]), at=AT))
        server.settimeout(10)
        _checked(server.recv(65536))
        sink.close()


def test_syslog_by_tls_shows_and_checks_certificates_and_comes_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server_identity, client_identity = authority.issue("server"), authority.issue("client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_identity.cert, server_identity.key)
    context.load_verify_locations(authority.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    received: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        for _ in range(2):  # one connection for each message: the first is cut
            with context.wrap_socket(listening.accept()[0], server_side=True) as peer:
                length = int(b"".join(iter(lambda: peer.recv(1), b" ")))
                received.append(peer.recv(length))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=[listening], daemon=True)
        thread.start()
        url = f"tls://localhost:{listening.getsockname()[1]}"
        tls = Tls(ca_file=authority.cert, cert_file=client_identity.cert,
                  key_file=client_identity.key)  # fmt: skip
        sink = SyslogSink(url, tls)
        record = Record(xml=_xml(ALL["Export"]), at=AT)
        sink.write(record)
        wait_for("the first", lambda: received, 10)

        def second() -> bool:  # what is written into a dead connection is lost without a word
            try:
                sink.write(record)
            except OSError:
                return False
            return len(received) == 2

        wait_for("the second", second, 10)
        sink.close()
        thread.join(10)
        strangers = SyslogSink(url, Tls())  # who do not know the server's CA
        with pytest.raises(OSError):
            strangers.write(record)
    for each in received:
        _checked(each)


@pytest.mark.parametrize("value", ["syslog", "tls://", "unix://log", "udp://h:99999", "http://h"])
def test_a_place_that_there_is_not_is_refused(value: str) -> None:
    with pytest.raises(BadSettings, match="CXR_AUDIT="):
        Settings.from_env({"CXR_AUDIT": value})


def test_logging_is_quiet_while_all_is_well(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.DEBUG):
        audit = Audit.of(Settings(home_dir=tmp_path))
        audit.report(ALL["Query"])
        audit.close()
    assert [event(it) for it in trail(tmp_path)] == ["Query"]
    assert caplog.text == ""
