"""Who asks, and whether the request is theirs: token, trusted proxy, session, this machine.

A machine sends the token as a bearer. A person signs in with it, or with an OpenID Connect
provider (`oidc`), and gets a session cookie, or comes through a proxy that names the user. Bound
to loopback without any of these, the page is open to this machine; then only loopback host names
are answered, which a rebound DNS name is not.
"""

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass
from ipaddress import ip_address

from fastapi import HTTPException, Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer

from worker.settings import Settings

SESSION_S = 8 * 3600
COOKIE = "cxr_session"
NAME_LENGTH_MAX = 64
LOCAL_USER = "local"
MACHINE = "api"
_LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the cookie holds, signed: a random id, who signed in, and whether they may operate."""

    id: str
    name: str | None
    may_operate: bool = True


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who asks. A bearer's requests cannot be forged by another site's page."""

    name: str
    is_bearer: bool = False
    may_operate: bool = True  # what changes something for everybody: reprocess, retry, upload


class Access:
    """The rules of one web process."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.web_token.get_secret_value()
        self._header = settings.web_user_header
        self._proxies = settings.web_trusted_proxies
        self.has_provider = bool(settings.web_oidc_issuer)
        self.is_open = not self._token and not self._header and not self.has_provider
        # Of a secret, so that a restart or a second copy keeps sessions; else of this process.
        secret = self._token + settings.web_oidc_client_secret.get_secret_value()
        key = hashlib.sha256(f"session|{secret}".encode()).hexdigest()
        self._key = key if secret else secrets.token_hex(32)
        self._is_https = settings.web_url.startswith("https://")
        self._serializer = URLSafeTimedSerializer(self._key, salt=COOKIE)

    @property
    def has_sign_in(self) -> bool:
        return self.has_token or self.has_provider

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def key_for(self, use: str) -> str:
        """A key of its own for another signer."""
        return hmac.new(self._key.encode(), use.encode(), "sha256").hexdigest()

    def is_token(self, given: str) -> bool:
        return bool(self._token) and hmac.compare_digest(self._token.encode(), given.encode())

    def visitor(self, request: Request) -> Visitor | None:
        """Who asks, or None: then they must sign in."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return Visitor(name=MACHINE, is_bearer=True) if self.is_token(given.strip()) else None
        if self._header and self.is_from_proxy(request):
            name = clean_name(request.headers.get(self._header, ""))
            if name:
                return Visitor(name=name)
        session = self.session(request)
        if self.has_sign_in and session is not None and session.name:
            return Visitor(name=session.name, may_operate=session.may_operate)
        return Visitor(name=LOCAL_USER) if self.is_open else None

    def is_from_proxy(self, request: Request) -> bool:
        try:
            address = ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def is_known_host(self, request: Request) -> bool:
        """Open to this machine alone means: asked by its own names alone."""
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return not self.is_open or name.lower() in _LOOPBACK_HOSTS

    def is_same_origin(self, request: Request) -> bool:
        """Whether a request that changes something comes from our own page, or from no page."""
        if request.method in _SAFE_METHODS:
            return True
        site = request.headers.get("sec-fetch-site")  # what a browser knows best, if it says so
        if site is not None:
            return site in ("same-origin", "none")
        origin = request.headers.get("origin")
        return origin is None or origin.partition("://")[2] == request.headers.get("host")

    def session(self, request: Request) -> Session | None:
        try:
            held = self._serializer.loads(request.cookies.get(COOKIE, ""), max_age=SESSION_S)
            return Session(
                id=str(held["id"]), name=held["name"], may_operate=bool(held["may_operate"])
            )
        except (BadSignature, KeyError, TypeError):
            return None

    def start_session(self, request: Request, response: Response, session: Session) -> None:
        secure = (
            self._is_https
            or request.url.scheme == "https"
            or (self.is_from_proxy(request) and request.headers.get("x-forwarded-proto") == "https")
        )
        response.set_cookie(
            COOKIE,
            self._serializer.dumps(asdict(session)),
            max_age=SESSION_S,
            httponly=True,
            samesite="lax",
            secure=secure,
        )

    def csrf_token(self, session: Session) -> str:
        return hmac.new(self._key.encode(), f"csrf|{session.id}".encode(), "sha256").hexdigest()

    def is_csrf_token(self, session: Session | None, given: str) -> bool:
        if session is None:
            return False
        return hmac.compare_digest(self.csrf_token(session).encode(), given.encode())


def new_session(name: str | None = None, *, may_operate: bool = True) -> Session:
    return Session(id=secrets.token_hex(16), name=name, may_operate=may_operate)


def clean_name(text: str) -> str:
    """A user's name as it is kept: printable, one line, of bounded length."""
    return "".join(c for c in text if c.isprintable()).strip()[:NAME_LENGTH_MAX]


def require_visitor(request: Request) -> Visitor:
    """The API's dependency: 401 for strangers, 403 for another site's page."""
    access: Access = request.app.state.web.access
    visitor = access.visitor(request)
    if visitor is None:
        raise HTTPException(
            401, "no valid token: send Authorization: Bearer …", {"WWW-Authenticate": "Bearer"}
        )
    if not visitor.is_bearer and not access.is_same_origin(request):
        raise HTTPException(403, "this request comes from another site's page")
    return visitor


def require_operator(visitor: Visitor) -> None:
    """Raise 403 for who may only look and give an opinion."""
    if not visitor.may_operate:
        raise HTTPException(403, "you may look, but not reprocess, retry or upload")
