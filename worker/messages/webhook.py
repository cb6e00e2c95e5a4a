"""Tell a URL of results: a small JSON document, signed as Standard Webhooks 1.0 says.

What is signed is `id.timestamp.body`, by HMAC-SHA256 with a secret that both sides hold, so that
a receiver can refuse what is not ours, what was altered, and what is old.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

import urllib3

from dicom_io.association import Timeouts
from dicom_io.errors import DestinationUnavailable
from dicom_io.http_pool import http_pool
from dicom_io.scu import SendObject, SendResult
from dicom_io.stow import NOT_NOW, describe_error
from worker.messages.address import Event, WebhookDestination, read_secret
from worker.messages.content import Told

STATEMENT = "Result of a research algorithm. Not for diagnostic use."
_GONE = 410


def event_of(told: Told) -> Event:
    return cast(Event, told.band or "none")  # the bands are events


def result_body(told: Told, *, with_patient: bool) -> bytes:
    """The document of a report. The same input: the same bytes."""
    document: dict[str, Any] = {
        "event": event_of(told),
        "created_at": told.created_at.isoformat(),
        "study_instance_uid": told.study_instance_uid,
        "sr_sop_instance_uid": told.sr_sop_instance_uid,
        "revision": told.revision,
        "corrects_an_earlier_result": told.is_correction,
        "probability": told.probability,
        "band": told.band,
        "intended_use": told.intended_use,
        "conclusion": told.conclusion,
        "model": {"name": told.model_name, "version": told.model_version},
        "statement": STATEMENT,
    }
    if with_patient:
        patient = told.patient
        document["accession_number"] = told.accession_number
        document["patient"] = {
            "id": patient.id,
            "issuer": patient.issuer,
            "name": "^".join(patient.name),
            "birth_date": patient.birth_date.isoformat() if patient.birth_date else None,
            "sex": patient.sex,
        }
    return _json(document)


def failure_body(study_instance_uid: str, revision: int, now: datetime) -> bytes:
    """The document of a report that could not be made; why is in our own log and database."""
    return _json(
        {
            "event": "failed",
            "created_at": now.isoformat(),
            "study_instance_uid": study_instance_uid,
            "revision": revision,
            "statement": STATEMENT,
        }
    )


def withdrawal_body(sent: bytes, reason: str, now: datetime) -> bytes:
    """The document that takes an earlier one back: whose result it was, and no result."""
    document = json.loads(sent)
    kept = ("study_instance_uid", "sr_sop_instance_uid", "revision", "accession_number", "patient")
    return _json(
        {"event": "withdrawn", "created_at": now.isoformat(), "reason": reason}
        | {key: document[key] for key in kept if key in document}
        | {"statement": STATEMENT}
    )


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class WebhookPeer:
    """A receiver of webhooks."""

    def __init__(self, url: str, secret: bytes, pool: urllib3.PoolManager) -> None:
        self._url = url
        self._secret = secret
        self._pool = pool

    def accepts(self, sop_class_uid: str) -> bool:  # noqa: ARG002
        return True

    def store(self, item: SendObject) -> SendResult:
        """POST one document; raises DestinationUnavailable when it is to be tried again later."""
        assert isinstance(item.payload, bytes)
        uid = item.sop_instance_uid
        status = self.post(uid, item.payload)
        if status // 100 == 2:  # noqa: PLR2004
            return SendResult(sop_instance_uid=uid, status=None, error=None)
        if status in NOT_NOW or status // 100 in (1, 3, 5):
            raise DestinationUnavailable(f"answers with HTTP {status}")
        error = f"refused with HTTP {status}"
        final = status == _GONE
        return SendResult(sop_instance_uid=uid, status=None, error=error, refused=True, final=final)

    def post(self, message_id: str, body: bytes) -> int:
        """Sign and send; returns the status. What the receiver says besides is not read."""
        timestamp = int(time.time())  # of this attempt: an old one is refused as a replay
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "cxr-worker",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, message_id, timestamp, body),
        }
        try:
            response = self._pool.request(
                "POST", self._url, body=body, headers=headers, preload_content=False
            )
            response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise DestinationUnavailable(describe_error(error)) from error
        return int(response.status)


@contextmanager
def storing(
    destination: WebhookDestination, timeouts: Timeouts | None = None
) -> Iterator[WebhookPeer]:
    """Be ready to send some documents; raises DestinationUnavailable.

    Proxies of the environment are not used and redirects not followed: what is told goes to the
    URL of the settings or nowhere.
    """
    timeouts = timeouts or Timeouts()
    try:
        secret = read_secret(destination.secret_file)
        context = destination.tls.client_context()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise DestinationUnavailable(f"secret or TLS files cannot be used ({said})") from error
    pool = http_pool(context, timeouts)
    try:
        yield WebhookPeer(destination.url, secret, pool)
    finally:
        pool.clear()


def probe(destination: WebhookDestination) -> str:
    """Send a signed document whose event is `test`; raises DestinationUnavailable."""
    body = _json({"event": "test", "statement": STATEMENT})
    with storing(destination) as peer:
        status = peer.post(f"test-{secrets.token_hex(8)}", body)
    if status // 100 != 2:  # noqa: PLR2004
        raise DestinationUnavailable(f"answers a signed test with HTTP {status}")
    return f"answers a signed test with HTTP {status}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
