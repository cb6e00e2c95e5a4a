"""From an image to an HL7 message and a webhook and back, through `cxr-worker up`."""

import base64
import json
from pathlib import Path

import hl7
import pytest
from pydicom.uid import generate_uid

from tests.support import dicom
from tests.support.hl7_receiver import hl7_receiver
from tests.support.system import running, wait_for
from tests.worker.messages.test_webhook import Receiver


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_study_is_told_corrected_and_withdrawn(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"whsec_{base64.b64encode(bytes(32)).decode()}")
    webhook = Receiver()
    with hl7_receiver(tmp_path) as ris:
        file = tmp_path / "destinations.toml"
        file.write_text(
            f'[[destination]]\nname = "ris"\nkind = "hl7"\nhost = "127.0.0.1"\n'
            f'port = {ris.port}\n[[destination]]\nname = "pager"\nkind = "webhook"\n'
            f'url = "{webhook.url}"\nsecret_file = "secret"\n'
            'events = ["positive", "review", "negative", "none"]\n'
        )
        with running(tmp_path / "home", DESTINATIONS_FILE=file) as (system, pacs):
            assert system.command("check").returncode == 0
            study = str(generate_uid())
            image = dicom.chest(study, PatientName="Canary^Yellow", AccessionNumber="A-7")
            system.send([dicom.write(image, tmp_path)])
            system.wait_until_delivered(study)
            image.PatientName = "Canary^Red"
            system.send([dicom.write(image, tmp_path)])
            wait_for(
                "the correction", lambda: len(ris.received) == 2 and len(pacs.reports(study)) == 2
            )
            system.wait_until_delivered(study)
            wait_for("the webhook", lambda: len(webhook.received) == 3)
            assert system.command("retract", study, "--reason", "quality").returncode == 0
            wait_for("the withdrawal", lambda: len(ris.received) == 3)
            wait_for("the webhook", lambda: len(webhook.received) == 4)
            shown = system.command("show", study).stdout
            log = system.log
    messages = [hl7.parse(text) for text in ris.received]
    assert [str(it.segment("OBX")[11]) for it in messages] == ["P", "C", "W"]
    assert [str(it.segment("PID")[5]) for it in messages] == ["Canary^Yellow", *["Canary^Red"] * 2]
    assert [str(it.segment("OBR")[3]) for it in messages] == ["A-7"] * 3
    result = system.study(study)
    assert result is not None
    events = [json.loads(body)["event"] for _, body in webhook.received]
    assert events == ["test", result["band"], result["band"], "withdrawn"]
    assert b"Canary" not in b"".join(body for _, body in webhook.received)
    assert "ris" in shown
    assert "Canary" not in log
    webhook.server.shutdown()
