"""docs/SECURITY.md says what the code does."""

import re
from pathlib import Path

import pytest

from dicom_io import pixels, read
from tests.support.audit import event, parsed
from tests.worker.test_audit import ALL, AT
from worker import (
    association_server,
    audit,
    audit_message,
    celery_app,
    connections,
    deliver,
    fast_pdu,
    scp,
)
from worker.web import guard, server

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "SECURITY.md").read_text()
PLACES = f"{connections.CONNECTIONS_MAX} in each process of the listener"
TASKS = f"{celery_app.TASK_TIME_LIMIT_S} s; {deliver.TIME_LIMIT_S} s for deliveries"
BODIES = f"{guard.BODY_BYTES_MAX >> 10} KiB; uploads {guard.UPLOAD_BYTES_MAX >> 20} MiB"
ROOM = f"free disk, looked at every {fast_pdu.ROOM_LOOK_BYTES >> 20} MiB of an object"
LIMITS = {
    "connections at once": PLACES,
    "TLS handshake": f"{association_server.HANDSHAKE_TIMEOUT_S} s",
    "until the association is asked for": f"{scp.ACSE_TIMEOUT_S} s",
    "nothing said": f"{association_server.NETWORK_TIMEOUT_S} s",
    "one PDU, first byte to last": f"{fast_pdu.PDU_TIMEOUT_S:.0f} s",
    "one message, first PDU to last": f"{fast_pdu.MESSAGE_TIMEOUT_S:.0f} s",
    "P-DATA-TF PDU": f"{scp.MAXIMUM_PDU_BYTES} bytes",
    "any other PDU": f"{fast_pdu.ASSOCIATE_BYTES_MAX} bytes",
    "command set, and data set of anything but C-STORE": f"{fast_pdu.HELD_BYTES_MAX >> 20} MiB",
    "messages that wait to be served": f"{fast_pdu.WAITING_MESSAGES_MAX} of each association",
    "object": f"{fast_pdu.OBJECT_BYTES_MAX >> 30} GiB",
    ROOM: "`CXR_SPOOL_RESERVE_MB`",
    "deflated data set, inflated": f"{read.INFLATED_BYTES_MAX >> 20} MiB",
    "what is inflated for its header": f"{read.INFLATED_HEAD_BYTES_MAX >> 20} MiB",
    "decoded pixels": f"{pixels.PIXELS_MAX}, of at most {pixels.BYTES_PER_PIXEL_MAX} bytes",
    "time of one task": TASKS,
    "request to the page": BODIES,
    "connections to the page": str(server.CONNECTIONS_MAX),
    "refusals logged": f"{scp.REFUSALS_LOGGED_PER_S} in a second and process",
    "audit messages that wait": f"{audit.QUEUED_MAX} in each process",
}


@pytest.mark.parametrize("what", LIMITS)
def test_limits_are_those_of_the_code(what: str) -> None:
    assert f"| {what} | {LIMITS[what]} |" in PAGE


def test_what_silence_and_repetition_mean_is_what_the_code_says() -> None:
    assert f"else one silent for {connections.SILENT_MIN_S:.0f} s" in PAGE
    assert f"local-limit-exceeded ({connections.OVERFLOW_MAX} more)" in PAGE
    assert audit.REPEAT_S == 60  # "within a minute"
    assert f"{audit.ENDED_AFTER_S:.0f} s after the last, or each minute" in PAGE


def test_every_audit_event_is_listed() -> None:
    table = re.findall(r"^\| ([A-Z][^|]+?) \| ", PAGE, re.M)
    said = {row.split(",")[0] for row in table}
    sent = {
        event(parsed(audit_message.encode(it, at=AT, source_id="x"))).split(":")[0]
        for it in ALL.values()
    }
    assert sent <= said
