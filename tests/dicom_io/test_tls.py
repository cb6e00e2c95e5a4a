"""C-STORE and C-ECHO over TLS, against an SCP with a certificate."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from dicom_io import scu
from dicom_io.contexts import VERIFICATION
from dicom_io.destination import Destination, Tls
from dicom_io.errors import DestinationUnavailable
from tests.support.tls import make_certificate


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[int, Path, list[str]]]:
    """A port, the certificate that it shows, and the TLS versions that were spoken there."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    ae, spoken = AE(ae_title="PACS"), []
    ae.add_supported_context(VERIFICATION)

    def note(event: evt.Event) -> int:
        spoken.append(event.assoc.dul.socket.socket.version())
        return 0

    server = ae.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_C_ECHO, note)]
    )
    assert server is not None
    yield server.server_address[1], cert, spoken
    server.shutdown()


def test_a_peer_whose_ca_is_known_is_spoken_to_in_modern_tls(
    encrypted: tuple[int, Path, list[str]],
) -> None:
    port, cert, spoken = encrypted
    tls = Tls(ca_file=cert)
    scu.echo(Destination(ae_title="PACS", host="localhost", port=port, tls=tls), "TEST")
    assert spoken == ["TLSv1.3"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_unknown_certificate_or_another_name_is_not_spoken_to(
    encrypted: tuple[int, Path, list[str]], host: str
) -> None:
    port, cert, spoken = encrypted
    tls = Tls() if host == "localhost" else Tls(ca_file=cert)
    with pytest.raises(DestinationUnavailable, match=r"cannot connect|aborted"):
        scu.echo(Destination(ae_title="PACS", host=host, port=port, tls=tls), "TEST")
    assert spoken == []


def test_a_file_that_is_no_certificate_says_so(tmp_path: Path) -> None:
    tls = Tls(ca_file=tmp_path / "absent.pem")
    destination = Destination(ae_title="PACS", host="localhost", port=104, tls=tls)
    with pytest.raises(DestinationUnavailable, match="TLS files cannot be used"):
        scu.echo(destination, "TEST")
