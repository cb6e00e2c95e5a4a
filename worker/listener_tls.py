"""What the listener shows and asks for in TLS, from files that may be renewed while it runs."""

import ssl
from pathlib import Path

from dicom_io.tls import server_context
from worker import log
from worker.errors import WorkerError
from worker.settings import Settings

_log = log.get("listener")


class ListenerTls:
    """The context of one process's connections; WorkerError names the file that is of no use."""

    def __init__(self, settings: Settings, cert: Path, key: Path) -> None:
        self._settings, self._cert, self._key = settings, cert, key
        self._stamp = self._look()
        self.context = self._make()

    def renew(self) -> None:
        """Take files that have changed; as long as one is of no use, those before are kept."""
        stamp = self._look()  # before they are read: what changes meanwhile is seen the next time
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.context = self._make()
        except WorkerError as error:
            _log.error("the files before are used on: %s", error)
        else:
            _log.info("certificates and revocation lists taken anew")

    def _make(self) -> ssl.SSLContext:
        try:
            return server_context(
                self._cert,
                self._key,
                self._settings.listener_tls_ca,
                self._settings.listener_tls_client_certificate,
                self._settings.listener_tls_crl,
            )
        except ValueError as error:
            raise WorkerError(f"CXR_LISTENER_TLS_…: {error}") from error

    def _look(self) -> list[tuple[int, int, int] | None]:
        settings = self._settings
        files = (self._cert, self._key, settings.listener_tls_ca, settings.listener_tls_crl)
        return [_stamp(path) for path in files if path is not None]


def make(settings: Settings) -> ListenerTls | None:
    """None where no certificate is set."""
    cert, key = settings.listener_tls_cert, settings.listener_tls_key
    return None if cert is None or key is None else ListenerTls(settings, cert, key)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
