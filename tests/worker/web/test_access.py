"""Who may ask what, and what every answer carries."""

import pytest
from fastapi.testclient import TestClient

from tests.worker.web.conftest import BEARER, TOKEN, MakeClient
from tests.worker.web.forms import csrf_token
from worker.errors import BadSettings
from worker.settings import Settings
from worker.web import login

PAGES = [
    "/",
    "/worklist",
    "/studies/1.2.3.1",
    "/studies/1.2.3.1/current",
    "/studies/1.2.3.1/images",
    "/studies/1.2.3.1/report",
    "/system",
    "/try",
    "/api",
]
API = [
    "/api/openapi.json",
    "/api/v1/studies",
    "/api/v1/status",
    "/api/v1/instances/1.2.3.1.1/image",
]
POSTS = [
    "/studies/1.2.3.1/feedback",
    "/studies/1.2.3.1/reprocess",
    "/studies/1.2.3.1/retry",
    "/find",
]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "FAILURE_TAKES_S", 0)


def _sign_in(client: TestClient, name: str = "Dr Who") -> None:
    form = {"csrf_token": csrf_token(client, "/login"), "name": name, "token": TOKEN}
    assert client.post("/login", data=form).headers["location"] == "/"


def test_strangers_are_sent_to_sign_in_or_get_401(guarded: TestClient) -> None:
    for path in PAGES:
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    for path in API:
        assert guarded.get(path).status_code == 401, path
        wrong = guarded.get(path, headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401, path
    for path in POSTS:
        assert guarded.post(path).status_code == 303, path
    for path in ("/healthz", "/readyz", "/health"):
        assert guarded.get(path).json() == {"status": "ok"}, path


def test_a_machine_sends_the_token(guarded: TestClient) -> None:
    for path in API[:3]:
        assert guarded.get(path, headers=BEARER).status_code == 200, path


def test_a_person_signs_in_and_out(guarded: TestClient) -> None:
    form = {"csrf_token": csrf_token(guarded, "/login"), "name": "Dr Who", "token": "wrong"}
    assert guarded.post("/login", data=form).status_code == 403
    _sign_in(guarded)
    page = guarded.get("/")
    assert page.status_code == 200
    assert "Dr Who" in page.text
    guarded.post("/logout", data={"csrf_token": csrf_token(guarded, "/")})
    assert guarded.get("/").status_code == 303


def test_a_session_cookie_is_guarded_and_expires(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = guarded.get("/login").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "max-age=28800" in cookie
    _sign_in(guarded)
    monkeypatch.setattr("worker.web.access.SESSION_S", -1)
    assert guarded.get("/").status_code == 303
    guarded.cookies.clear()
    guarded.cookies.set("cxr_session", "forged")
    assert guarded.get("/").status_code == 303


def test_a_form_without_its_token_is_refused(local: TestClient) -> None:
    local.get("/")
    for path in [*POSTS, "/try"]:
        answer = local.post(path, data={"csrf_token": "0" * 64, "verdict": "agree", "text": "1"})
        assert answer.status_code in (403, 422), path
    token = csrf_token(local, "/")
    origin = {"Origin": "http://evil.example"}
    answer = local.post("/studies/1.2.3.1/reprocess", data={"csrf_token": token}, headers=origin)
    assert answer.status_code == 403


def test_another_sites_page_cannot_use_the_api_of_who_is_signed_in(local: TestClient) -> None:
    path = "/api/v1/studies/1.2.3.1/reprocess"
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert local.post(path, headers=headers).status_code == 403
    assert local.post(path, headers={"Origin": "http://localhost:8080"}).status_code == 202
    assert local.post(path).status_code == 202


def test_open_to_this_machine_means_by_its_own_names(local: TestClient) -> None:
    for host, status in (("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:8080", 200)):
        assert local.get("/", headers={"Host": host}).status_code == status
    for host in ("evil.example", "evil.example:8080", "", "127.0.0.1.evil.example"):
        assert local.get("/", headers={"Host": host}).status_code == 403, host


def test_a_trusted_proxy_names_the_user_and_nobody_else_does(make_client: MakeClient) -> None:
    behind = {"web_user_header": "X-Forwarded-User", "web_trusted_proxies": "10.0.0.0/8"}
    named = {"X-Forwarded-User": "radiologist"}
    proxied = make_client(client=("10.1.2.3", 1), **behind)
    assert "radiologist" in proxied.get("/", headers=named).text
    assert proxied.get("/").status_code == 401
    proxied.cookies.clear()
    secure = proxied.get("/", headers=named | {"X-Forwarded-Proto": "https"})
    assert "secure" in secure.headers["set-cookie"].lower()
    direct = make_client(client=("192.0.2.1", 1), **behind)
    assert direct.get("/", headers=named).status_code == 401
    assert direct.get("/api/v1/studies", headers=named).status_code == 401


def test_every_answer_carries_the_security_headers(local: TestClient) -> None:
    for path in ("/", "/api/v1/studies", "/static/app.js", "/nowhere", "/api/v1/nowhere"):
        headers = local.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_no_page_has_an_inline_script_or_style_or_asks_another_host(local: TestClient) -> None:
    for path in [*PAGES, "/static/app.js", "/static/app.css"]:
        text = local.get(path).text
        assert "http://" not in text.replace("http://www.w3.org", ""), path
        assert "https://" not in text, path
        assert "style=" not in text, path
        assert "onclick" not in text, path
        assert text.count("<script") == text.count('<script src="/static/app.js" defer>'), path


def test_what_is_too_large_is_refused(local: TestClient) -> None:
    token = csrf_token(local, "/")
    large = {"csrf_token": token, "verdict": "agree", "comment": "x" * 100_000}
    assert local.post("/studies/1.2.3.1/feedback", data=large).status_code == 413
    body = {"verdict": "agree", "comment": "x" * 100_000}
    assert local.post("/api/v1/studies/1.2.3.1/feedback", json=body).status_code == 413


def test_a_stranger_cannot_send_what_is_large(guarded: TestClient) -> None:
    files = [("files", ("large.png", b"x" * 200_000))]
    assert guarded.post("/try", files=files).status_code == 413


def test_a_defect_is_logged_by_its_place_and_answered_without_its_text(
    local: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Canary^Yellow")

    monkeypatch.setattr("worker.web.api.queries.find_instance", broken)
    answer = local.get("/api/v1/instances/1.2.3.1.1")
    assert answer.status_code == 500
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "RuntimeError at test_access.py" in caplog.text
    assert "Canary" not in answer.text + caplog.text


def test_a_page_for_others_needs_a_token() -> None:
    with pytest.raises(BadSettings, match="CXR_WEB_BIND is no loopback address"):
        Settings.from_env({"CXR_WEB_BIND": "0.0.0.0"})
    with pytest.raises(BadSettings, match="need each other"):
        Settings.from_env({"CXR_WEB_USER_HEADER": "X-User"})
    with pytest.raises(BadSettings, match=r"CXR_WEB_TOKEN=\*\*\*: expected at least 16"):
        Settings.from_env({"CXR_WEB_TOKEN": "short"})
    assert Settings.from_env({"CXR_WEB_BIND": "0.0.0.0", "CXR_WEB_TOKEN": TOKEN})
    assert TOKEN not in repr(Settings.from_env({"CXR_WEB_TOKEN": TOKEN}))
