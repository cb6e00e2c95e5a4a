"""Certificates and revocation lists that change while the listener runs."""

import logging
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.support.tls import Authority, Identity
from worker.errors import WorkerError
from worker.listener_tls import ListenerTls, make
from worker.settings import Settings


class Site:
    """A CA, a server and a client of it, and the server's files."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder / "ca")
        self.client, server = self.ca.issue("client"), self.ca.issue("server")
        self.cert, self.key, self.crl = (folder / f"{it}.pem" for it in ("cert", "key", "crl"))
        self.show(server)
        self.crl.write_text(self.ca.revocations())
        values = {"port": 0, "cert": self.cert, "key": self.key, "ca": self.ca.cert}
        named = {f"listener_tls_{name}": it for name, it in (values | {"crl": self.crl}).items()}
        self.settings = Settings.model_validate(named)

    def show(self, identity: Identity) -> None:
        for source, target in ((identity.cert, self.cert), (identity.key, self.key)):
            new = target.with_suffix(".new")  # another file each time, whatever the clock's steps
            new.write_bytes(source.read_bytes())
            new.replace(target)

    def says(self, tls: ListenerTls) -> tuple[str, str]:
        """What a handshake ends with on the server's side, and whom the client sees."""
        ours, theirs = socket.socketpair()
        asking = ssl.create_default_context(cafile=str(self.ca.cert))
        asking.load_cert_chain(self.client.cert, self.client.key)
        seen = []

        def ask() -> None:
            try:
                with asking.wrap_socket(theirs, server_hostname="localhost") as secured:
                    seen.append(dict(it[0] for it in secured.getpeercert()["subject"]))
                    secured.recv(1)
            except OSError:
                theirs.close()

        client = threading.Thread(target=ask)
        client.start()
        try:
            with tls.context.wrap_socket(ours, server_side=True):
                said = "welcome"
        except ssl.SSLCertVerificationError as error:
            said = error.verify_message
        finally:
            ours.close()
            client.join()
        return said, seen[0]["commonName"] if seen else ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _made(site: Site) -> ListenerTls:
    tls = make(site.settings)
    assert tls is not None
    return tls


def test_a_new_revocation_list_holds_from_the_next_look_on(site: Site) -> None:
    tls = _made(site)
    assert site.says(tls) == ("welcome", "server")
    site.ca.revoke(site.client.cert)
    site.crl.write_text(site.ca.revocations())
    assert site.says(tls)[0] == "welcome"
    tls.renew()
    assert site.says(tls)[0] == "certificate revoked"


def test_a_new_certificate_is_shown_once_its_key_is_there_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tls, renewed = _made(site), site.ca.issue("renewed")
    with caplog.at_level(logging.INFO, "cxr"):
        site.show(Identity(cert=renewed.cert, key=site.key))
        tls.renew()
        assert site.says(tls) == ("welcome", "server")
        assert "the files before are used on: CXR_LISTENER_TLS_" in caplog.text
        assert "key values mismatch" in caplog.text
        site.show(renewed)
        tls.renew()
    assert site.says(tls) == ("welcome", "renewed")
    assert "taken anew" in caplog.text


def test_files_that_stay_are_not_read_again(site: Site) -> None:
    tls = _made(site)
    before = tls.context
    tls.renew()
    assert tls.context is before


def test_a_list_that_is_gone_changes_nothing_and_lets_no_listener_start(site: Site) -> None:
    tls = _made(site)
    site.crl.unlink()
    tls.renew()
    assert site.says(tls)[0] == "welcome"
    with pytest.raises(WorkerError, match=r"crl\.pem: cannot be read \(No such file"):
        make(site.settings)


def test_a_list_is_no_place_for_a_ca(site: Site, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "Stranger")
    site.crl.write_text(site.ca.revocations() + stranger.cert.read_text())
    with pytest.raises(WorkerError, match="revocation lists, and nothing else"):
        make(site.settings)
