"""The listener's TLS port against DCMTK and openssl: what may pass passes, all else is refused."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lxml import etree

from dicom_io import scu
from dicom_io.destination import Destination, Tls
from dicom_io.errors import DestinationUnavailable
from tests.support import dicom, upper_layer
from tests.support.audit import event, trail
from tests.support.listener import Listener, listening
from tests.support.peers import tool
from tests.support.system import command, wait_for
from tests.support.tls import Authority, Identity, make_certificate

pytestmark = pytest.mark.peers


@dataclass
class Site:
    """A hospital's CA, whom it knows, and who would like to be known."""

    ca: Path
    modality: Identity
    modality_rsa: Identity
    expired: Identity
    foreign: Identity
    self_signed: Identity
    servers: dict[str, Identity]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    ours, others = Authority(folder / "ours"), Authority(folder / "others", "Other CA")
    alone = Identity(cert=folder / "alone.pem", key=folder / "alone-key.pem")
    make_certificate(alone.cert, alone.key)
    return Site(
        ca=ours.cert,
        modality=ours.issue("modality"),
        modality_rsa=ours.issue("modality-rsa", algorithm="rsa:2048"),
        expired=ours.issue("old", expired=True),
        foreign=others.issue("stranger"),
        self_signed=alone,
        servers={it: ours.issue(it, algorithm=it) for it in ("ec", "rsa:2048")},
    )


def _tls(site: Site, server: str = "ec", **settings: object) -> dict[str, object]:
    identity = site.servers[server]
    return {
        "LISTENER_TLS_PORT": 0,
        "LISTENER_TLS_CERT": identity.cert,
        "LISTENER_TLS_KEY": identity.key,
        "LISTENER_TLS_CA": site.ca,
        "LISTENER_PLAIN": "off",
        **settings,
    }


@pytest.fixture(scope="module", params=["ec", pytest.param("rsa:2048", marks=pytest.mark.long)])
def listener(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listener]:
    """Only TLS, in two processes; certificates required; once with each kind of key."""
    folder = tmp_path_factory.mktemp("tls")
    with listening(folder, **_tls(site, request.param, LISTENER_PROCESSES=2)) as running:
        yield running


def _storescu(listener: Listener, path: Path, *options: object) -> bool:
    argv = [tool("storescu"), "-R", "-to", "5", "-ta", "5", "-aec", "CXR_WORKER", *options,
            "localhost", str(listener.tls_port), path]  # fmt: skip
    done = subprocess.run(
        [str(it) for it in argv], check=False, timeout=60, capture_output=True, text=True
    )
    return done.returncode == 0


def _s_client(listener: Listener, *options: object) -> bool:
    """Whether openssl, with a request for an association as its input, gets one."""
    argv = [tool("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{listener.tls_port}"]
    client = subprocess.Popen(
        [str(it) for it in (*argv, *options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            client.stdin.write(upper_layer.associate_request())
            client.stdin.flush()
        return client.stdout.read(1) == upper_layer.ACCEPTED  # or nothing, when it has ended
    finally:
        client.kill()
        client.wait()
        client.communicate()


def _shown(identity: Identity) -> list[object]:
    return ["-cert", identity.cert, "-key", identity.key]


@pytest.mark.parametrize("who", ["modality", "modality_rsa"])
@pytest.mark.parametrize("profile", ["+px", "+py", "+pz"])
def test_a_known_peer_stores_in_every_current_profile_of_dcmtk(
    listener: Listener, site: Site, tmp_path: Path, who: str, profile: str
) -> None:
    path, identity = dicom.write(dicom.chest(), tmp_path), getattr(site, who)
    before = listener.rows()
    options = ["+tls", identity.key, identity.cert, "+cf", site.ca, profile]
    assert _storescu(listener, path, *options)
    assert listener.rows() == before + 1


def test_dcmtk_without_a_certificate_that_we_know_stores_nothing(
    listener: Listener, site: Site, tmp_path: Path
) -> None:
    path, before = dicom.write(dicom.chest(), tmp_path), listener.rows()
    assert not _storescu(listener, path)  # plain on the TLS port
    assert not _storescu(listener, path, "+tla", "+cf", site.ca)
    for stranger in (site.expired, site.foreign, site.self_signed):
        options = ["+tls", stranger.key, stranger.cert, "+cf", site.ca]
        assert not _storescu(listener, path, *options), stranger
    assert not _storescu(
        listener, path, "+tls", site.modality.key, site.modality.cert, "+cf", site.ca, "+pn"
    )  # authenticated, not encrypted
    assert listener.rows() == before


@pytest.mark.parametrize(
    ("version", "suites"),
    [
        ("-tls1_3", ["-ciphersuites", "TLS_AES_256_GCM_SHA384"]),
        ("-tls1_3", ["-ciphersuites", "TLS_AES_128_GCM_SHA256"]),
        ("-tls1_3", ["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"]),
        ("-tls1_2", ["-cipher", "ECDHE+AES256+AESGCM"]),
        ("-tls1_2", ["-cipher", "ECDHE+AES128+AESGCM"]),
        ("-tls1_2", ["-cipher", "ECDHE+CHACHA20"]),
    ],
)
def test_every_suite_of_the_profile_is_spoken(
    listener: Listener, site: Site, version: str, suites: list[str]
) -> None:
    assert _s_client(listener, version, *suites, *_shown(site.modality))


@pytest.mark.parametrize(
    "offered",
    [
        ["-tls1"],
        ["-tls1_1"],
        ["-tls1_2", "-cipher", "ECDHE+AES+SHA1@SECLEVEL=0"],  # CBC
        ["-tls1_2", "-cipher", "ECDHE+AES+SHA256@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "kRSA+AESGCM@SECLEVEL=0"],  # no forward secrecy
        ["-tls1_2", "-cipher", "DHE+AESGCM@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "aNULL@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "eNULL@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "ECDHE+AESCCM@SECLEVEL=0"],
    ],
    ids=" ".join,
)
def test_nothing_older_or_weaker_is_spoken(
    listener: Listener, site: Site, offered: list[str]
) -> None:
    if offered in (["-tls1"], ["-tls1_1"]):  # what openssl itself refuses unless told not to
        offered = [*offered, "-cipher", "ALL@SECLEVEL=0"]
    refusals = listener.log.count("no TLS: ")
    assert not _s_client(listener, *offered, *_shown(site.modality))
    wait_for("our refusal", lambda: listener.log.count("no TLS: ") == refusals + 1)


def _wait_until_logged(listener: Listener, said: str) -> None:
    wait_for(said, lambda: said in listener.log)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_nobody_unknown_gets_an_association(listener: Listener, site: Site, version: str) -> None:
    assert not _s_client(listener, version)
    for stranger in (site.expired, site.foreign, site.self_signed):
        assert not _s_client(listener, version, *_shown(stranger)), stranger
    for reason in (
        "peer did not return a certificate",
        "certificate has expired",
        "unable to get local issuer certificate",
        "self-signed certificate",
    ):
        _wait_until_logged(listener, reason)


def test_a_session_is_never_resumed(listener: Listener, site: Site, tmp_path: Path) -> None:
    saved = tmp_path / "session.pem"
    assert _s_client(listener, "-sess_out", saved, *_shown(site.modality))
    assert not saved.exists()  # no ticket was given out


def test_plain_and_tls_stand_side_by_side_and_each_port_speaks_its_own(
    site: Site, tmp_path: Path
) -> None:
    first, second = (dicom.write(dicom.chest(), tmp_path) for _ in range(2))
    who = site.modality
    tls = Tls(ca_file=site.ca, cert_file=who.cert, key_file=who.key)
    with listening(tmp_path, **_tls(site, LISTENER_PLAIN="on")) as listener:
        assert [it.status for it in listener.send([first])] == [0]
        assert [it.status for it in listener.send([second], tls)] == [0]
        crossed = Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=listener.port, tls=tls)
        with pytest.raises(DestinationUnavailable):
            scu.echo(crossed, "TEST")
        assert listener.rows() == 2


@pytest.mark.long
def test_whether_a_certificate_is_needed_is_a_setting(site: Site, tmp_path: Path) -> None:
    anonymous = ["+tla", "+cf", site.ca]
    known = ["+tls", site.modality.key, site.modality.cert, "+cf", site.ca]
    foreign = ["+tls", site.foreign.key, site.foreign.cert, "+cf", site.ca]
    paths = [dicom.write(dicom.chest(), tmp_path) for _ in range(3)]
    setting = {"LISTENER_TLS_CLIENT_CERTIFICATE": "optional"}
    with listening(tmp_path / "optional", **_tls(site, **setting)) as listener:
        stored = [_storescu(listener, paths[0], *it) for it in (anonymous, known, foreign)]
    assert stored == [True, True, False]
    setting = {"LISTENER_TLS_CLIENT_CERTIFICATE": "none", "LISTENER_TLS_CA": ""}
    with listening(tmp_path / "none", **_tls(site, **setting)) as listener:
        assert _storescu(listener, paths[1], *anonymous)
    setting = {"LISTENER_TLS_CA": str(site.foreign.cert)}  # a certificate itself, without its CA
    with listening(tmp_path / "pinned", **_tls(site, **setting)) as listener:
        assert _storescu(listener, paths[2], *foreign)
        assert not _storescu(listener, paths[2], *known)


def test_a_peer_that_never_shakes_hands_holds_up_nobody(site: Site, tmp_path: Path) -> None:
    tls = Tls(ca_file=site.ca, cert_file=site.modality.cert, key_file=site.modality.key)
    path = dicom.write(dicom.chest(), tmp_path)
    with listening(tmp_path, **_tls(site)) as listener, contextlib.ExitStack() as held:
        for number in range(10):
            silent = held.enter_context(socket.create_connection(("127.0.0.1", listener.tls_port)))
            silent.sendall(b"\x16\x03\x01\x02\x00"[: number % 6])  # of a ClientHello
        assert [it.status for it in listener.send([path], tls)] == [0]
        wait_for("the refusals", lambda: listener.log.count("handshake took too long") == 10, 20)


def test_who_only_looks_whether_the_port_is_served_is_no_stranger(
    site: Site, tmp_path: Path
) -> None:
    settings = _tls(site)
    with listening(tmp_path, **settings) as listener:
        env = {f"CXR_{name}": str(value) for name, value in settings.items()}
        done = command("health", "listener", env=env | {"CXR_HOME_DIR": str(listener.home)})
        assert f"answers on port {listener.tls_port}" in done.stdout, done.stderr
        with socket.create_connection(("127.0.0.1", listener.tls_port)):
            pass  # as a load balancer does
        with socket.create_connection(("127.0.0.1", listener.tls_port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while stranger.recv(1000):
                    pass
        wait_for("the refusal of the last", lambda: "refused: " in listener.log)
        assert listener.log.count("refused: ") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"LISTENER_TLS_CRL": "absent.pem"}, "No such file"),
        ({"LISTENER_TLS_CRL": "ca"}, "revocation lists, and nothing else"),
        ({"LISTENER_TLS_CRL": "other"}, "expected certificate revocation lists"),
        ({"LISTENER_TLS_KEY": "absent.pem"}, "No such file"),
        ({"LISTENER_TLS_CA": "absent.pem"}, "No such file"),
        ({"LISTENER_TLS_KEY": "other"}, "key values mismatch"),
    ],
)
def test_files_of_no_use_are_named_before_a_port_is_taken(
    site: Site, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    others = {"other": str(site.modality.key), "ca": str(site.ca)}
    values = {name: others.get(it, it) for name, it in wrong.items()}
    settings = _tls(site, DICOM_PORT=0, **values)
    env = {f"CXR_{name}": str(value) for name, value in settings.items()}
    env["CXR_HOME_DIR"] = str(tmp_path)
    assert command("db", "upgrade", env=env).returncode == 0
    done = command("listen", env=env)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@dataclass
class Department:
    """Peers under a CA that has revoked some, and the lists that say so."""

    ca: Path
    server: Identity
    modality: Identity
    stolen: Identity
    ward: Identity
    ward_chain: Path
    dissolved: Identity
    dissolved_chain: Path
    lists: str
    expired_lists: str


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Department:
    folder = tmp_path_factory.mktemp("department")
    root = Authority(folder / "root")
    ward = Authority(folder / "ward", "Ward CA", under=root)
    dissolved = Authority(folder / "dissolved", "Dissolved CA", under=root)
    stolen = root.issue("stolen")
    root.revoke(stolen.cert)
    root.revoke(dissolved.cert)
    return Department(
        ca=root.cert,
        server=root.issue("server"),
        modality=root.issue("modality"),
        stolen=stolen,
        ward=ward.issue("ward-modality"),
        ward_chain=ward.cert,
        dissolved=dissolved.issue("dissolved-modality"),
        dissolved_chain=dissolved.cert,
        lists=root.revocations() + ward.revocations() + dissolved.revocations(),
        expired_lists=root.revocations(expired=True),
    )


def _with_lists(department: Department, folder: Path, lists: str) -> dict[str, object]:
    (folder / "crl.pem").write_text(lists)
    return {
        "LISTENER_TLS_PORT": 0,
        "LISTENER_TLS_CERT": department.server.cert,
        "LISTENER_TLS_KEY": department.server.key,
        "LISTENER_TLS_CA": department.ca,
        "LISTENER_TLS_CRL": folder / "crl.pem",
        "LISTENER_PLAIN": "off",
    }


def test_who_is_revoked_or_below_a_revoked_ca_is_refused_and_that_is_audited(
    department: Department, tmp_path: Path
) -> None:
    path = dicom.write(dicom.chest(), tmp_path)
    with listening(tmp_path, **_with_lists(department, tmp_path, department.lists)) as listener:
        stored = []
        for who in (department.modality, department.stolen):
            options = ["+tls", who.key, who.cert, "+cf", department.ca]
            stored.append(_storescu(listener, path, *options))
        assert stored == [True, False]
        assert listener.rows() == 1
        for version in ("-tls1_2", "-tls1_3"):
            assert _s_client(listener, version, *_shown(department.modality))
            assert not _s_client(listener, version, *_shown(department.stolen))
            chain = ["-cert_chain", department.ward_chain]
            assert _s_client(listener, version, *_shown(department.ward), *chain)
            chain = ["-cert_chain", department.dissolved_chain]
            assert not _s_client(listener, version, *_shown(department.dissolved), *chain)
        said = "refused: certificate not accepted: certificate revoked"
        wait_for("the refusals", lambda: listener.log.count(said) == 5, 10)
        home = listener.home
    told = [etree.tostring(it) for it in trail(home) if event(it).startswith("Security Alert")]
    assert [b"certificate revoked" in it for it in told] == [True]  # once a minute


def test_without_a_current_list_of_its_ca_nobody_is_let_in(
    department: Department, site: Site, tmp_path: Path
) -> None:
    for name, lists, said in (
        ("expired", department.expired_lists, "CRL has expired"),
        ("another CA's", _other_list(tmp_path), "unable to get certificate CRL"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with listening(folder, **_with_lists(department, folder, lists)) as listener:
            assert not _s_client(listener, *_shown(department.modality)), name
            _wait_until_logged(listener, f"certificate not accepted: {said}")


def _other_list(folder: Path) -> str:
    return Authority(folder / "others", "Other CA").revocations()


@pytest.mark.long
def test_a_new_list_is_taken_while_the_listener_runs(tmp_path: Path) -> None:
    root = Authority(tmp_path / "root")
    who = root.issue("modality")
    (tmp_path / "crl.pem").write_text(root.revocations())
    settings = {
        "LISTENER_TLS_PORT": 0,
        "LISTENER_TLS_CERT": who.cert,
        "LISTENER_TLS_KEY": who.key,
        "LISTENER_TLS_CA": root.cert,
        "LISTENER_TLS_CRL": tmp_path / "crl.pem",
        "LISTENER_PROCESSES": 2,
    }
    with listening(tmp_path, **settings) as listener:
        assert _s_client(listener, *_shown(who))
        root.revoke(who.cert)
        (tmp_path / "crl.pem").write_text(root.revocations())
        wait_for("both processes", lambda: listener.log.count("taken anew") == 2)
        assert not any(_s_client(listener, *_shown(who)) for _ in range(6))
