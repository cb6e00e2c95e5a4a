import base64
import json
import re
from pathlib import Path

import pytest

from db.tables import ObjectKind
from dicom_io.destination import Destination, Tls, WebDestination
from tests.support.tls import make_certificate
from worker.destinations import (
    DicomTable,
    Hl7Table,
    Recipient,
    WebhookTable,
    WebTable,
    parse,
    read_file,
)
from worker.errors import BadSettings
from worker.messages.address import MllpDestination, WebhookDestination
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def _file(folder: Path, text: str) -> Path:
    path = folder / "destinations.toml"
    path.write_text(text)
    return path


def test_the_quick_form_names_peers_encrypted_peers_and_web_servers() -> None:
    pacs = Destination(ae_title="PACS", host="10.0.0.1", port=104)
    assert parse("PACS@10.0.0.1:104") == Recipient(name="PACS@10.0.0.1:104", address=pacs)
    encrypted = parse("tls+PACS@[::1]:2762")
    assert encrypted.name == "tls+PACS@[::1]:2762"
    assert encrypted.address == Destination(ae_title="PACS", host="::1", port=2762, tls=Tls())
    url = "https://pacs.example/dicom-web/studies"
    assert parse(url) == Recipient(name=url, address=WebDestination(url=url))
    assert parse("http://127.0.0.1:8042/dicom-web/studies").kind == "stow"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PACS:104", "expected AET@host:port"),
        ("http://pacs.example/studies", "expected https"),
        ("https://user:secret@pacs.example/studies", "without user, password"),
        ("https://pacs.example/", "ends with /studies"),
        ("PACS@host:0", "1 to 65535"),
    ],
)
def test_what_is_none_says_what_is_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_the_example_in_the_docs_is_read_as_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "DESTINATIONS.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    make_certificate(tmp_path / "hospital-ca.pem", tmp_path / "key.pem")
    (tmp_path / "token").write_text("secret")
    (tmp_path / "webhook-secret").write_text(f"whsec_{base64.b64encode(b'k' * 32).decode()}\n")
    archive, viewer, cloud, ris, pager = read_file(_file(tmp_path, example)).recipients
    assert archive.storage_commitment
    assert archive.objects == {ObjectKind.SR, ObjectKind.SALIENCY, ObjectKind.REJECTION}
    assert isinstance(archive.address, Destination)
    assert archive.address.tls == Tls(ca_file=tmp_path / "hospital-ca.pem")
    assert (viewer.sr_class, viewer.hold) == ("comprehensive", True)
    assert viewer.objects == {ObjectKind.SR}
    assert viewer.calling_ae_title == "AI_RESULT"
    assert cloud.address == WebDestination(
        url="https://pacs.example/dicom-web/studies", token_file=tmp_path / "token"
    )
    assert ris.address == MllpDestination(
        host="engine.example",
        port=2575,
        receiving_application="RIS",
        receiving_facility="HOSPITAL",
    )
    assert pager.address == WebhookDestination(
        url="https://alerts.example/cxr",
        secret_file=tmp_path / "webhook-secret",
        events=("positive", "failed"),
    )
    assert ris.objects == pager.objects == {ObjectKind.MESSAGE, ObjectKind.REJECTION}
    assert (ris.kind, pager.kind) == ("hl7", "webhook")


def test_every_key_of_a_destination_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "DESTINATIONS.md").read_text()
    for table in (DicomTable, WebTable, Hl7Table, WebhookTable):
        for key in table.model_fields:
            assert re.search(rf"^\| .*`{key}`.* \| .* \|", page, re.MULTILINE), key


def test_everything_wrong_in_a_file_is_said_at_once(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        """
        [[destination]]
        name = "one"
        kind = "dicom"
        ae_title = "PACS"
        host = "pacs"
        port = "104"
        colour = "red"

        [[destination]]
        name = "two"
        kind = "ftp"

        [[destination]]
        kind = "stow"
        url = "http://pacs.example/studies"
        name = "three"

        [[destination]]
        kind = "dicom"
        name = "four"
        ae_title = "PACS"
        host = "pacs"
        port = 104
        tls = true
        tls_ca = "absent.pem"
        objects = ["sr", "pdf"]

        [[other]]
        """,
    )
    with pytest.raises(BadSettings) as caught:
        Settings.from_env({"CXR_DESTINATIONS_FILE": str(path), "CXR_DICOM_PORT": "x"})
    said = str(caught.value)
    for problem in (
        "destination 1 (one): port: input should be a valid integer",
        "destination 1 (one): colour: no such key",
        "destination 2 (two): kind: expected dicom, stow, hl7 or webhook",
        "destination 3 (three): 'http://pacs.example/studies': expected https",
        "destination 4 (four): objects.1: input should be 'sr', 'saliency' or 'rejection'",
        "other: no such key; expected [[destination]]",
        "CXR_DICOM_PORT='x'",
    ):
        assert problem in said


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_file(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="expected TOML"):
        read_file(_file(tmp_path, "[[destination"))
    dicom = '[[destination]]\nname = "a"\nkind = "dicom"\nae_title = "A"\nhost = "h"\nport = 1\n'
    with pytest.raises(ValueError, match="a: named 2 times"):
        read_file(_file(tmp_path, dicom * 2))
    with pytest.raises(ValueError, match="tls_ca, tls_cert, tls_key: expected readable"):
        read_file(_file(tmp_path, f'{dicom}tls = true\ntls_ca = "absent.pem"\n'))
    with pytest.raises(ValueError, match="tls: expected true"):
        read_file(_file(tmp_path, f'{dicom}tls_ca = "absent.pem"\n'))


def test_a_name_is_taken_once_over_both_settings(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[[destination]]\nname = "A@h:1"\nkind = "dicom"\nae_title = "A"\nhost = "h"\nport = 1\n',
    )
    environ = {"CXR_DESTINATIONS_FILE": str(path)}
    settings = Settings.from_env(environ | {"CXR_DESTINATIONS": "B@h:2"})
    assert [it.name for it in settings.recipients] == ["B@h:2", "A@h:1"]
    assert Settings.from_env(settings.environment()) == settings
    with pytest.raises(BadSettings, match="A@h:1: named 2 times"):
        Settings.from_env(environ | {"CXR_DESTINATIONS": "A@h:1"})


@pytest.mark.parametrize(
    ("options", "secret", "expected"),
    [
        (
            {"url": "http://alerts.example/x"},
            None,
            "expected https; http only to this very machine",
        ),
        ({"url": "https://user:pw@alerts.example/x"}, None, "without user, password"),
        ({"url": "file:///etc/passwd"}, None, "expected https://host/path"),
        ({}, "letters", "expected whsec_ and base64"),
        ({}, "whsec_AAAA", "at least 24 bytes"),
        ({}, "whsec_*", "expected base64"),
        ({"secret_file": "absent"}, None, "cannot be read"),
        ({"events": ["always"]}, None, "input should be 'positive', 'review'"),
        ({"url": "https://a.example/x", "objects": ["sr"]}, None, "objects: no such key"),
    ],
)
def test_a_webhook_that_cannot_be_one_says_why(
    tmp_path: Path, options: dict[str, object], secret: str | None, expected: str
) -> None:
    good = f"whsec_{base64.b64encode(bytes(32)).decode()}"
    (tmp_path / "secret").write_text(secret or good)
    table = {"url": "https://alerts.example/x", "secret_file": "secret"} | options
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    text = f'[[destination]]\nname = "a"\nkind = "webhook"\n{lines}\n'
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        read_file(_file(tmp_path, text))
    assert "pw@" not in str(caught.value)
