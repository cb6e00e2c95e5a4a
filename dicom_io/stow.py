"""Store objects over DICOMweb: STOW-RS as user agent (PS3.18 10.5).

One request carries one object, over one kept connection, so that what the server says is said
of that object. The bytes are the object's own, never encoded anew.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3

from dicom_io.association import Timeouts
from dicom_io.destination import WebDestination
from dicom_io.errors import DestinationUnavailable
from dicom_io.http_pool import http_pool
from dicom_io.scu import OUT_OF_RESOURCES, SendObject, SendResult

ANSWER_BYTES_MAX = 1 << 20
_OK, _ACCEPTED, _SERVER_ERROR = 200, 202, 500
# Of the destination, not of the object: what waits is left alone for a while.
NOT_NOW = {401, 403, 404, 407, 408, 425, 429}

_FAILED_SOP_SEQUENCE = "00081198"
_FAILURE_REASON = "00081197"
_REFERENCED_SOP_INSTANCE_UID = "00081155"


class WebPeer:
    """A STOW-RS server; SOP classes are not negotiated there."""

    def __init__(
        self, destination: WebDestination, pool: urllib3.PoolManager, headers: dict[str, str]
    ) -> None:
        self._destination = destination
        self._pool = pool
        self._headers = headers

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002
        return True

    def store(self, item: SendObject) -> SendResult:
        """POST one object; raises DestinationUnavailable when the server cannot be used now."""
        boundary = secrets.token_hex(16)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        body = _multipart(item, boundary)
        headers = {"Content-Type": content_type}
        status, answer = self._request("POST", self._destination.url, body, headers)
        return self._result(item.sop_instance_uid, status, answer)

    def probe(self) -> str:
        status, _ = self._request("GET", f"{self._destination.url}?limit=1", None, {})
        if status in (401, 403, 407) or status >= _SERVER_ERROR:
            raise DestinationUnavailable(f"answers with HTTP {status}")
        return f"answers with HTTP {status}"

    def _request(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        headers = self._headers | headers
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, preload_content=False
            )
            try:
                return response.status, response.read(ANSWER_BYTES_MAX + 1)
            finally:
                response.close()  # a connection that was read to its end is kept all the same
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise DestinationUnavailable(describe_error(error)) from error

    def _result(self, uid: str, http_status: int, answer: bytes) -> SendResult:
        redirected = http_status // 100 == 3  # noqa: PLR2004
        if http_status in NOT_NOW or http_status >= _SERVER_ERROR or redirected:
            raise DestinationUnavailable(f"answers with HTTP {http_status}")
        reason = _failure_reason(answer, uid)
        if reason is not None:
            error = f"refused with failure reason 0x{reason:04X}"
            refused = reason not in OUT_OF_RESOURCES
            return SendResult(sop_instance_uid=uid, status=reason, error=error, refused=refused)
        if http_status in (_OK, _ACCEPTED):
            return SendResult(sop_instance_uid=uid, status=0, error=None)
        error = f"refused with HTTP {http_status}"
        return SendResult(sop_instance_uid=uid, status=None, error=error, refused=True)


def probe(destination: WebDestination) -> str:
    """Ask for nothing much, to see whether the server is there and knows us.

    Returns what it answered; raises DestinationUnavailable.
    """
    with storing(destination) as peer:
        return peer.probe()


@contextmanager
def storing(destination: WebDestination, timeouts: Timeouts | None = None) -> Iterator[WebPeer]:
    """Hold connections to a server for some objects. Raises DestinationUnavailable."""
    timeouts = timeouts or Timeouts()
    headers = {"Accept": "application/dicom+json", "User-Agent": "cxr-worker"}
    try:
        if destination.token_file is not None:
            headers["Authorization"] = f"Bearer {destination.token_file.read_text().strip()}"
        context = destination.tls.client_context()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise DestinationUnavailable(f"token or TLS files cannot be used ({said})") from error
    pool = http_pool(context, timeouts)
    try:
        yield WebPeer(destination, pool, headers)
    finally:
        pool.clear()


def _multipart(item: SendObject, boundary: str) -> bytes:
    content = item.payload if isinstance(item.payload, bytes) else item.payload.read_bytes()
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return head + content + f"\r\n--{boundary}--\r\n".encode()


def _failure_reason(answer: bytes, sop_instance_uid: str) -> int | None:
    """Why the server did not take the object (PS3.18 I.2.2), None if it does not say so."""
    try:
        document = json.loads(answer) if len(answer) <= ANSWER_BYTES_MAX else {}
        for item in document.get(_FAILED_SOP_SEQUENCE, {}).get("Value", []):
            if _value(item, _REFERENCED_SOP_INSTANCE_UID) in (sop_instance_uid, None):
                return int(_value(item, _FAILURE_REASON) or 0x0110)
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        return None
    return None


def _value(item: Any, tag: str) -> Any:
    return (item.get(tag, {}).get("Value") or [None])[0]


def describe_error(error: Exception) -> str:
    """What went wrong, without the address, which the caller names."""
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib3.exceptions.SSLError) or "CERTIFICATE" in str(reason):
        return "TLS failed: its certificate is not trusted, or names another host"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "cannot connect"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"
