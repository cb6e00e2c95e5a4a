"""Certificates for tests, made by openssl: a CA, whom it signs, and who is a stranger to it."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A certificate and its key, both PEM files."""

    cert: Path
    key: Path


def make_certificate(cert: Path, key: Path) -> None:
    """A certificate of localhost that is its own CA."""
    argv = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key,
            "-out", cert]  # fmt: skip
    _openssl(*argv)


class Authority:
    """A CA of its own in a folder, or one that another CA has signed."""

    def __init__(
        self, folder: Path, name: str = "Test CA", *, under: "Authority | None" = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / "ca.pem", folder / "ca-key.pem"
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01\n")
        self._config = folder / "ca.cnf"
        self._config.write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {folder}/index.txt\n"
            f"crlnumber = {folder}/crlnumber\ndefault_md = sha256\ndefault_crl_days = 2\n"
        )
        made = [*_NEW_EC_KEY, "-subj", f"/CN={name}", "-keyout", self._key]
        if under is None:
            _openssl(*made, "-x509", "-days", "2", "-out", self.cert)
        else:
            _openssl(*made, "-out", folder / "ca.csr")
            under.sign(folder / "ca.csr", self.cert, "basicConstraints=critical,CA:TRUE\n")

    def sign(self, request: Path, cert: Path, extensions: str, days: str = "2") -> None:
        (file := request.with_suffix(".ext")).write_text(extensions)
        signed_by = ["-CA", self.cert, "-CAkey", self._key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", request, *signed_by, "-days", days, "-extfile", file,
                 "-out", cert)  # fmt: skip

    def issue(self, name: str, *, algorithm: str = "ec", expired: bool = False) -> Identity:
        """A certificate of localhost for client and server; an expired one ended yesterday."""
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        request = self._folder / f"{name}.csr"
        new_key = _NEW_EC_KEY if algorithm == "ec" else ["req", "-newkey", algorithm, "-nodes"]
        _openssl(*new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
        self.sign(request, cert, names, "-1" if expired else "2")
        return Identity(cert=cert, key=key)

    def revoke(self, cert: Path) -> None:
        """Revoke a certificate: the next list has it."""
        self._ca("-revoke", cert)

    def revocations(self, *, expired: bool = False) -> str:
        """A new certificate revocation list, PEM; an expired one ended in 2021."""
        out = self._folder / "crl.pem"
        dates = ["-crl_lastupdate", "20210101000000Z", "-crl_nextupdate", "20210201000000Z"]
        self._ca("-gencrl", *(dates if expired else []), "-out", out)
        return out.read_text()

    def _ca(self, *arguments: object) -> None:
        signer = ["-cert", self.cert, "-keyfile", self._key]
        _openssl("ca", "-config", self._config, *signer, *arguments)


_NEW_EC_KEY = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(*arguments: object) -> None:
    argv = ["openssl", *(str(it) for it in arguments)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


@contextmanager
def tls_in_front_of(port: int, identity: Identity, ca: Path) -> Iterator[int]:
    """A port that asks for certificates and passes on what comes in TLS to a plain port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert, identity.key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                threading.Thread(target=join, args=[accepted], daemon=True).start()

    def join(accepted: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(accepted, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", port)) as inside,
        ):
            threading.Thread(target=copy, args=[inside, outside], daemon=True).start()
            copy(outside, inside)

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=[listening], daemon=True).start()
        yield listening.getsockname()[1]
