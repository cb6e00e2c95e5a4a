"""Orthanc as a destination: its own storage commitment, and its DICOMweb plugin."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.peers.test_orthanc import Orthanc
from tests.support.outbox import Outbox
from tests.support.peers import free_port, tool
from tests.support.system import wait_for
from worker import commit, deliver, scp
from worker.destinations import parse

pytestmark = pytest.mark.peers
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture
def listener_port() -> int:
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, listener_port: int) -> Iterator[Orthanc]:
    tool("Orthanc")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    made = Orthanc(folder)
    plugins = [str(PLUGIN)] if PLUGIN.exists() else []
    try:
        made.start(listener_port, Plugins=plugins, LuaScripts=[])
        yield made
    finally:
        made.stop()


def _states(waiting: Outbox) -> list[str]:
    return [row["state"] for row in waiting.deliveries()]


def _stored(orthanc: Orthanc) -> dict[str, Any]:
    """Orthanc's instances by SOP Instance UID."""
    found = orthanc.get("/instances?expand")
    return {it["MainDicomTags"]["SOPInstanceUID"]: it for it in found}


def test_orthanc_commits_what_it_holds_and_gets_again_what_it_lost(
    orthanc: Orthanc, listener_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)  # put back afterwards
    recipient = replace(parse(orthanc.destination), storage_commitment=True)
    waiting = Outbox(tmp_path, recipient)
    server = scp.start_server(
        scp.bind_port("127.0.0.1", listener_port),
        store=lambda path, origin: 0,
        record_commitment=partial(commit.record, waiting.database),
        temp_folder=tmp_path,
        ae_title="CXR_WORKER",
    )
    try:
        report, picture = waiting.add_report(1)
        assert deliver.deliver(waiting.services, recipient.name) == 2
        assert set(_stored(orthanc)) == {report, picture}
        orthanc.delete(f"/instances/{_stored(orthanc)[report]['ID']}")
        assert commit.commit(waiting.services, recipient.name) == 2
        wait_for("the answer", lambda: _states(waiting) == ["pending", "committed"])
        assert waiting.deliveries()[0]["error"] == "not committed: no such object instance"
        waiting.make_due()
        assert deliver.deliver(waiting.services, recipient.name) == 1
        assert commit.commit(waiting.services, recipient.name) == 1
        wait_for("the answer", lambda: _states(waiting) == ["committed", "committed"])
        assert set(_stored(orthanc)) == {report, picture}
    finally:
        server.shutdown()


def test_orthanc_stores_over_dicomweb(orthanc: Orthanc, tmp_path: Path) -> None:
    if not PLUGIN.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web/studies"
    waiting = Outbox(tmp_path, url)
    report, picture = waiting.add_report(1)
    assert deliver.deliver(waiting.services, url) == 2
    assert _states(waiting) == ["sent", "sent"]
    assert set(_stored(orthanc)) == {report, picture}
    (study,) = orthanc.get("/studies?expand")
    assert study["MainDicomTags"]["StudyInstanceUID"] == "1.2.1"
    with waiting.database.begin() as tx:  # sent again, as after a crash: no second one
        from db import restarts
        from db.tables import outbox

        tx.conn.execute(outbox.update().values(state="failed"))
        assert restarts.retry_deliveries(tx) == 2
    assert deliver.deliver(waiting.services, url) == 2
    assert set(_stored(orthanc)) == {report, picture}
