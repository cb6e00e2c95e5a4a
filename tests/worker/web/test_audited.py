"""What the audit trail tells of people at the page and of machines at the API."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.support.audit import event, study, trail, users
from tests.worker.web.conftest import BEARER, TOKEN, MakeClient
from tests.worker.web.forms import csrf_token
from worker.web import (
    api,
    api_page,
    audited,
    login,
    pages,
    probed,
    study_page,
    system_page,
    try_page,
)
from worker.web.context import Web

STUDY = "1.2.3.1"
LISTS = [audited.ACCESS, audited.CHANGE, audited.EXPORT, audited.QUERY, audited.NOT_AUDITED]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "FAILURE_TAKES_S", 0)


def _trail(client: TestClient, home: Path) -> list[str]:
    """Every event so far, written down."""
    web: Web = client.app.state.web  # type: ignore[attr-defined]
    web.services.audit.close()
    return [event(it) for it in trail(home)]


def test_every_request_is_in_one_list() -> None:
    named = [name for names in LISTS for name in names]
    assert len(named) == len(set(named))
    modules = (api, pages, study_page, system_page, try_page, login, api_page, probed)
    there = {route.endpoint.__name__ for module in modules for route in module.router.routes}
    assert there == set(named)


def test_a_person_who_signs_in_looks_and_leaves_is_in_the_trail(
    guarded: TestClient, tmp_path: Path
) -> None:
    token = csrf_token(guarded, "/login")
    form = {"csrf_token": token, "name": "Dr Who", "token": "a-wrong-token-of-length"}
    assert guarded.post("/login", data=form).status_code == 403
    form = {"csrf_token": csrf_token(guarded, "/login"), "name": "Dr Who", "token": TOKEN}
    assert guarded.post("/login", data=form).status_code == 303
    page_token = csrf_token(guarded, f"/studies/{STUDY}")
    for _ in range(3):
        assert guarded.get("/").status_code == 200
    found = {"csrf_token": page_token, "text": "PID-CANARY"}
    assert guarded.post("/find", data=found).status_code == 200
    opinion = {"csrf_token": page_token, "verdict": "agree", "comment": "CANARY"}
    assert guarded.post(f"/studies/{STUDY}/feedback", data=opinion).status_code == 303
    assert guarded.post("/logout", data={"csrf_token": page_token}).status_code == 303
    assert _trail(guarded, tmp_path) == [
        "User Authentication: Login",
        "User Authentication: Login",
        "DICOM Instances Accessed",
        "Query",  # once, however often it is looked at
        "Query",
        "DICOM Instances Accessed",
        "User Authentication: Logout",
    ]
    messages = trail(tmp_path)
    outcomes = [it.xpath("EventIdentification/@EventOutcomeIndicator")[0] for it in messages[:2]]
    assert outcomes == ["4", "0"]
    assert all("Dr Who" in users(it) for it in messages)
    actions = [it.xpath("EventIdentification/@EventActionCode")[0] for it in messages]
    assert (actions[2], actions[5]) == ("R", "U")
    assert [study(messages[index]) for index in (2, 5)] == [STUDY, STUDY]
    assert "CANARY" not in (tmp_path / "audit" / "audit.xml").read_text()


def test_a_machine_that_downloads_a_report_or_has_no_key_is_in_the_trail(
    guarded: TestClient, tmp_path: Path
) -> None:
    for _ in range(2):
        assert guarded.get("/api/v1/studies", headers={"Authorization": "Bearer no"}).is_error
    assert guarded.get("/api/v1/studies?band=positive", headers=BEARER).is_success
    page = guarded.get("/api/v1/studies?state=reported", headers=BEARER).json()
    uids = [it["study_instance_uid"] for it in page["studies"]]
    reports = [guarded.get(f"/api/v1/studies/{it}/report", headers=BEARER) for it in uids[:20]]
    assert guarded.get("/api/v1/studies/9.9.9", headers=BEARER).status_code == 404
    exported = sum(it.is_success for it in reports)
    assert exported
    assert _trail(guarded, tmp_path) == [
        "User Authentication: Login",
        "Query",
        "Query",
        *["Export"] * exported,
    ]


def test_an_image_is_reported_as_its_study_and_once(local: TestClient, tmp_path: Path) -> None:
    images = local.get(f"/api/v1/studies/{STUDY}/instances").json()
    for image in images:
        local.get(f"/api/v1/instances/{image['sop_instance_uid']}")
        local.get(f"/api/v1/instances/{image['sop_instance_uid']}/image")
    assert [event(it) for it in _close_and_read(local, tmp_path)] == ["DICOM Instances Accessed"]


def _close_and_read(client: TestClient, home: Path) -> list[object]:
    _trail(client, home)
    return trail(home)  # type: ignore[return-value]


def test_the_patient_is_named_only_where_the_setting_says_so(
    make_client: MakeClient, tmp_path: Path
) -> None:
    make_client().get(f"/studies/{STUDY}")
    client = make_client(audit_patient_id=True)
    client.get(f"/studies/{STUDY}")
    _trail(client, tmp_path)
    kinds = [it.xpath("//ParticipantObjectIDTypeCode/@originalText") for it in trail(tmp_path)]
    assert ["Study Instance UID", "Patient Number"] in kinds
