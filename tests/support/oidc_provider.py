"""A small OpenID Connect provider in a process of its own, for tests.

`python -m tests.support.oidc_provider PORT FOLDER`: FOLDER/user.json has the claims of who signs
in; FOLDER/mode says what is wrong with the ID token, if anything.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT_ID, CLIENT_SECRET = "cxr-worker", "client-secret"


class Handler(http.server.BaseHTTPRequestHandler):
    server: "Server"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/.well-known/openid-configuration":
            self._json(200, self.server.document())
        elif url.path == "/keys":
            self._json(200, {"keys": [self.server.key.as_dict(private=False)]})
        elif url.path == "/authorize":
            self._authorize(asked)
        else:
            self._json(404, {})

    def _authorize(self, asked: dict[str, str]) -> None:
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_hex(16)
        self.server.codes[code] = asked
        back = f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
        self.send_response(302)
        self.send_header("Location", back)
        self.end_headers()

    def do_POST(self) -> None:
        assert self.path == "/token"
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        asked = self.server.codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if (
            asked is None
            or self.headers["Authorization"] != f"Basic {expected}"
            or challenge != asked["code_challenge"]
            or form["redirect_uri"] != asked["redirect_uri"]
        ):
            self._json(400, {"error": "invalid_grant"})
            return
        answer = {"access_token": "a", "token_type": "Bearer", "expires_in": 60}
        if self.server.mode != "no id token":
            answer["id_token"] = self.server.id_token(asked["nonce"])
        self._json(200, answer)

    def _json(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, port: int, folder: Path) -> None:
        self.folder = folder
        self.issuer = f"http://127.0.0.1:{port}"
        self.key = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
        self.foreign = RSAKey.generate_key(2048, {"kid": "one", "alg": "RS256", "use": "sig"})
        self.codes: dict[str, dict[str, str]] = {}
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def mode(self) -> str:
        return (self.folder / "mode").read_text()

    def document(self) -> dict[str, object]:
        return {
            "issuer": "https://other.example" if self.mode == "another issuer" else self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
        }

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "1",
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
        }
        changes: dict[str, dict[str, object]] = {
            "wrong nonce": {"nonce": "another"},
            "wrong audience": {"aud": "another-client"},
            "wrong issuer": {"iss": "https://other.example"},
            "expired": {"iat": now - 7200, "exp": now - 3600},
            "issued in the future": {"iat": now + 3600},
        }
        claims |= changes.get(self.mode, {})
        claims |= json.loads((self.folder / "user.json").read_text())
        if self.mode.startswith("no "):
            claims.pop(self.mode.removeprefix("no "), None)
        header = {"alg": "RS256", "kid": "one"}
        if self.mode == "unsigned":
            parts = [{"alg": "none"}, claims]
            encoded = [base64.urlsafe_b64encode(json.dumps(it).encode()).decode() for it in parts]
            return ".".join(it.rstrip("=") for it in encoded) + "."
        if self.mode == "signed with what is public":
            key = OctKey.import_key(self.key.as_pem(private=False))
            return jwt.encode({"alg": "HS256"}, claims, key)
        return jwt.encode(header, claims, self.foreign if self.mode == "foreign key" else self.key)


class OidcProvider:
    """The process, from a test's side."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.sign_in("anna")

    def sign_in(self, name: str | None, mode: str = "", **claims: object) -> None:
        """Who signs in from now on, and what is wrong with the token."""
        named = {} if name is None else {"preferred_username": name}
        (self._folder / "user.json").write_text(json.dumps(named | claims))
        (self._folder / "mode").write_text(mode)


@contextlib.contextmanager
def oidc_provider(folder: Path) -> Iterator[OidcProvider]:
    provider = OidcProvider(folder)
    argv = [sys.executable, "-m", "tests.support.oidc_provider", str(provider.port), str(folder)]
    process = subprocess.Popen(argv)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", provider.port)) == 0:
                    break
            time.sleep(0.1)
        yield provider
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    Server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
