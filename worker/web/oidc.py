"""Signing in with an OpenID Connect provider: authorization code with PKCE, state and nonce.

Authlib does the protocol. What is held to here besides: the provider's document names the issuer
of the settings, tokens are signed with an asymmetric key, and whoever signs in may.
Source: OpenID Connect Core 1.0 3.1, Discovery 1.0 4.3.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp

from worker import log
from worker.settings import Settings
from worker.web.access import clean_name

START, CALLBACK = "/login/oidc", "/login/oidc/callback"
ANSWER_WITHIN_S = 10.0
STARTED_FOR_S = 600  # from the first redirect to the way back
LEEWAY_S = 60
_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}

_log = log.get("web")


class SignInRefused(Exception):
    """Why somebody may not come in, as they are told."""


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """may_operate: also what changes something for everybody: reprocess, retry, upload."""

    name: str
    may_operate: bool


class Provider:
    """The provider of the settings. Its document and keys are fetched when first needed."""

    def __init__(self, settings: Settings) -> None:
        from authlib.integrations.starlette_client import OAuth  # most installations need none

        self._settings = settings
        secret = settings.web_oidc_client_secret.get_secret_value()
        issuer = settings.web_oidc_issuer.rstrip("/")
        self._client = OAuth().register(
            "provider",
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            client_id=settings.web_oidc_client_id,
            client_secret=secret or None,
            client_kwargs={
                "scope": settings.web_oidc_scope,
                "code_challenge_method": "S256",
                "token_endpoint_auth_method": "client_secret_basic" if secret else "none",
                "timeout": ANSWER_WITHIN_S,
                "verify": ssl.create_default_context(),
                "trust_env": False,
                "follow_redirects": False,
            },
        )

    async def redirect(self, request: Request) -> Response:
        """Send the browser to the provider; raises SignInRefused when that is not there."""
        try:
            await self._load()
            there: Response = await self._client.authorize_redirect(
                request, self._settings.web_url.rstrip("/") + CALLBACK
            )
        except SignInRefused:
            raise
        except Exception as error:  # a provider may fail in any way
            _log.error("OpenID Connect: %s", log.where(error))
            raise SignInRefused("the sign-in service cannot be reached") from None
        return there

    async def come_back(self, request: Request) -> SignedIn:
        """Take the code, fetch and check the ID token; raises SignInRefused."""
        settings = self._settings
        expected = {
            "iss": {"essential": True, "values": [settings.web_oidc_issuer]},
            "aud": {"essential": True, "values": [settings.web_oidc_client_id]},
        }
        try:
            await self._load()
            token = await self._client.authorize_access_token(
                request, claims_options=expected, leeway=LEEWAY_S
            )
            claims: Mapping[str, Any] = token["userinfo"]
        except Exception as error:  # whatever is wrong with it, it is no sign-in
            _log.warning("OpenID Connect: sign-in refused: %s", log.where(error))
            raise SignInRefused("the sign-in service's answer does not hold: try again") from None
        return self._admitted(claims)

    async def _load(self) -> None:
        metadata = await self._client.load_server_metadata()
        if metadata.get("issuer") != self._settings.web_oidc_issuer:
            raise SignInRefused("the sign-in service is not the issuer of CXR_WEB_OIDC_ISSUER")
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = [
            name for name in offered if name in _ALGORITHMS
        ] or ["RS256"]

    def _admitted(self, claims: Mapping[str, Any]) -> SignedIn:
        settings = self._settings
        said = str(_claim(claims, settings.web_oidc_user_claim) or "")
        name = clean_name(said)
        if name != said:  # what was cleaned might be somebody else's
            raise SignInRefused("the sign-in service names you in a way that cannot be taken")
        unverified = settings.web_oidc_user_claim == "email" and not claims.get("email_verified")
        if not name or unverified:
            raise SignInRefused("the sign-in service does not say who you are")
        held = {name}
        if settings.web_oidc_role_claim:  # people choose their names, and not their roles
            roles = _claim(claims, settings.web_oidc_role_claim)
            listed = roles if isinstance(roles, list) else [roles]
            held = {role for role in listed if isinstance(role, str)}
        if settings.web_oidc_allowed and held.isdisjoint(settings.web_oidc_allowed):
            raise SignInRefused("you are signed in there, but may not see this page")
        operators = settings.web_oidc_operators
        return SignedIn(name=name, may_operate=not operators or not held.isdisjoint(operators))


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim, or one within others: `realm_access.roles`."""
    if path in claims:  # a name with dots in it
        return claims[path]
    found: Any = claims
    for key in path.split(".") if path else []:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if path else None


def remembering(app: ASGIApp, *, key: str, secure: bool) -> ASGIApp:
    """State, nonce and PKCE's secret in a cookie of the browser's, signed, for ten minutes."""
    from starlette.middleware.sessions import SessionMiddleware

    return SessionMiddleware(
        app,
        secret_key=key,
        session_cookie="cxr_sign_in",
        max_age=STARTED_FOR_S,
        path="/login",
        same_site="lax",
        https_only=secure,
    )
