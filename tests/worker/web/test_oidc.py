"""Signing in with a real OpenID Connect provider, a process of its own; and what is refused."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, oidc_provider
from tests.worker.web.conftest import BEARER, TOKEN, MakeClient
from tests.worker.web.forms import csrf_token
from worker.errors import BadSettings
from worker.settings import Settings


@pytest.fixture(scope="module")
def running_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with oidc_provider(tmp_path_factory.mktemp("provider")) as made:
        yield made


@pytest.fixture
def provider(running_provider: OidcProvider) -> OidcProvider:
    running_provider.sign_in("anna")
    return running_provider


def _client(make_client: MakeClient, provider: OidcProvider, **settings: object) -> TestClient:
    values = {
        "web_url": "http://localhost:8080",
        "web_oidc_issuer": provider.issuer,
        "web_oidc_client_id": CLIENT_ID,
        "web_oidc_client_secret": CLIENT_SECRET,
    }
    return make_client(**(values | settings))


def _way_back(client: TestClient) -> str:
    """Go to the provider and sign in there; returns where it sends the browser."""
    there = client.get("/login/oidc")
    assert there.status_code == 302, there.text
    asked = parse_qs(urlsplit(there.headers["location"]).query)
    assert asked["redirect_uri"] == ["http://localhost:8080/login/oidc/callback"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    answer = httpx.get(there.headers["location"], trust_env=False)
    location: str = answer.headers["location"]
    return location


def _sign_in(client: TestClient) -> httpx.Response:
    return client.get(_way_back(client))


def test_who_signs_in_there_is_known_here_by_name(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client = _client(make_client, provider)
    assert client.get("/").headers["location"] == "/login"
    page = client.get("/login").text
    assert 'href="/login/oidc"' in page
    assert "CXR_WEB_TOKEN" not in page
    answer = _sign_in(client)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/").status_code == 200
    form = {"verdict": "agree", "csrf_token": csrf_token(client, "/studies/1.2.3.1")}
    assert client.post("/studies/1.2.3.1/feedback", data=form).status_code == 303
    assert "anna" in client.get("/studies/1.2.3.1").text
    out = {"csrf_token": csrf_token(client, "/studies/1.2.3.1")}
    client.post("/logout", data=out)
    assert client.get("/").headers["location"] == "/login"


@pytest.mark.parametrize(
    "mode",
    [
        "wrong nonce",
        "no nonce",
        "wrong audience",
        "no aud",
        "wrong issuer",
        "expired",
        "no exp",
        "issued in the future",
        "foreign key",
        "unsigned",
        "signed with what is public",
        "no id token",
    ],
)
def test_a_token_that_does_not_hold_is_refused(
    make_client: MakeClient, provider: OidcProvider, mode: str
) -> None:
    client = _client(make_client, provider)
    provider.sign_in("anna", mode)
    answer = _sign_in(client)
    assert answer.status_code == 403
    assert "does not hold" in answer.text
    assert client.get("/").headers["location"] == "/login"
    assert client.get("/api/v1/studies").status_code == 401


def test_a_provider_that_calls_itself_something_else_is_not_asked(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client = _client(make_client, provider)
    provider.sign_in("anna", "another issuer")
    answer = client.get("/login/oidc")
    assert answer.status_code == 403
    assert "not the issuer" in answer.text


def test_only_the_browser_that_went_there_may_come_back_and_once(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client, other = _client(make_client, provider), _client(make_client, provider)
    back = _way_back(client)
    assert other.get(back).status_code == 403  # another browser's state
    assert client.get(back.replace("state=", "state=x")).status_code == 403
    assert client.get("/login/oidc/callback").status_code == 403
    assert client.get("/login/oidc/callback?error=access_denied").status_code == 403
    back = _way_back(client)
    assert client.get(back).status_code == 303
    assert client.get(back).status_code == 403


def test_only_who_is_allowed_comes_in(make_client: MakeClient, provider: OidcProvider) -> None:
    allowed = {"web_oidc_role_claim": "realm.roles", "web_oidc_allowed": ("radiology",)}
    client = _client(make_client, provider, **allowed)
    for name, roles, expected in (
        ("anna", ["surgery"], 403),
        ("anna", ["surgery", "radiology"], 303),
        ("anna", "radiology", 303),
        ("radiology", [], 403),  # a name is no role
        ("anna", None, 403),
    ):
        provider.sign_in(name, realm={"roles": roles})
        assert _sign_in(client).status_code == expected, (name, roles)
    assert _sign_in(client).status_code == 403
    client = _client(make_client, provider, web_oidc_allowed=("carl",))
    for name, expected in (("carl", 303), ("car\u200bl", 403), ("anna", 403)):
        provider.sign_in(name)
        assert _sign_in(client).status_code == expected, name
    provider.sign_in(None)
    assert "who you are" in _sign_in(client).text


def test_an_address_that_was_not_verified_names_nobody(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client = _client(make_client, provider, web_oidc_user_claim="email")
    provider.sign_in("anna", email="a@b.example")
    assert _sign_in(client).status_code == 403
    provider.sign_in("anna", email="a@b.example", email_verified=True)
    assert _sign_in(client).status_code == 303


def test_who_is_no_operator_looks_and_says_but_starts_nothing(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client = _client(make_client, provider, web_oidc_operators=("carl",))
    _sign_in(client)
    page = client.get("/studies/1.2.3.1").text
    assert "/reprocess" not in page
    token = {"csrf_token": csrf_token(client, "/studies/1.2.3.1")}
    for path in ("/studies/1.2.3.1/reprocess", "/studies/1.2.3.1/retry"):
        assert client.post(path, data=token).status_code == 403
    files = {"files": ("a.png", b"png")}
    assert client.post("/try", data=token, files=files).status_code == 403
    same = {"Sec-Fetch-Site": "same-origin"}
    answer = client.post("/api/v1/studies/1.2.3.1/reprocess", headers=same)
    assert answer.status_code == 403
    assert client.post("/studies/1.2.3.1/feedback", data=token | {"verdict": "agree"}).is_redirect
    provider.sign_in("carl")
    _sign_in(client)
    token = {"csrf_token": csrf_token(client, "/studies/1.2.3.1")}
    assert client.post("/studies/1.2.3.1/reprocess", data=token).status_code == 303


def test_the_token_goes_on_beside_it(make_client: MakeClient, provider: OidcProvider) -> None:
    client = _client(make_client, provider, web_token=TOKEN)
    assert client.get("/api/v1/studies", headers=BEARER).status_code == 200
    page = client.get("/login").text
    assert "CXR_WEB_TOKEN" in page
    assert "/login/oidc" in page


def test_a_provider_that_is_down_says_so(make_client: MakeClient, provider: OidcProvider) -> None:
    client = _client(make_client, provider, web_oidc_issuer="http://127.0.0.1:1")
    answer = client.get("/login/oidc")
    assert answer.status_code == 403
    assert "cannot be reached" in answer.text


def test_behind_https_every_cookie_is_secure(
    make_client: MakeClient, provider: OidcProvider
) -> None:
    client = _client(make_client, provider, web_url="https://cxr.example")
    cookies = client.get("/login/oidc").headers.get_list("set-cookie")
    cookies += client.get("/login").headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all("secure" in it.lower() and "httponly" in it.lower() for it in cookies)
    assert all("samesite=lax" in it.lower() for it in cookies)


def test_without_a_provider_there_is_no_such_page(local: TestClient) -> None:
    assert local.get("/login/oidc").status_code == 404
    assert local.get("/login/oidc/callback").status_code == 404


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CXR_WEB_OIDC_ISSUER": "https://idp.example"}, "need each other"),
        ({"CXR_WEB_OIDC_ISSUER": "http://idp.example"}, "expected https"),
        ({"CXR_WEB_URL": "http://cxr.example"}, "expected https"),
        ({"CXR_WEB_OIDC_SCOPE": "profile"}, "should match pattern"),
    ],
)
def test_settings_that_cannot_work_say_so(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(BadSettings, match=expected):
        Settings.from_env(environ)
