"""An OpenID Connect provider as a process of its own. Who signs in there, and what goes wrong, is the test's choice."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "flint-at-the-provider"
CLIENT_SECRET = "a secret between the two"
SLOW_SECONDS = 8  # More than the site waits for.


class IdentityProvider:
    """The process, as tests see it. It listens once `start` returns, after a `stop` on the same port again."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.accounts.identity_provider", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def signs_in(self, sub: str, *, fault: str = "", **claims: Any) -> None:
        """From now on this person is the one who is there."""
        requests.post(f"{self.url}/control", json={"fault": fault, "claims": {"sub": sub, **claims}}, timeout=5)


class _Provider(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.issuer = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.stolen_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.claims: dict[str, Any] = {}
        self.fault = ""
        self.asked: dict[str, dict[str, str]] = {}  # By code: what the site asked for.

    def id_token(self, asked: dict[str, str]) -> str:
        claims = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "exp": int(time.time()) + 300,
            "iat": int(time.time()),
            "nonce": asked.get("nonce"),
            **self.claims,
        }
        wrong: dict[str, dict[str, Any]] = {
            "issuer": {"iss": "http://another.example.test"},
            "audience": {"aud": "another site"},
            "expired": {"exp": int(time.time()) - 3600},
            "nonce": {"nonce": "of another sign-in"},
        }
        key = self.stolen_key if self.fault == "signature" else self.key
        return jwt.encode({**claims, **wrong.get(self.fault, {})}, key, "RS256", {"kid": "one"})


class _Answer(BaseHTTPRequestHandler):
    server: _Provider

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if self.server.fault == f"500{address.path}":
            self.send_error(500)
            return
        if self.server.fault == f"rubbish{address.path}":
            self._json([])
            return
        if self.server.fault == f"slow{address.path}":
            time.sleep(SLOW_SECONDS)
        match address.path:
            case "/.well-known/openid-configuration":
                self._json(self._discovery())
            case "/authorize":
                self._authorize(dict(parse_qsl(address.query)))
            case "/jwks":
                public = jwt.algorithms.RSAAlgorithm.to_jwk(self.server.key.public_key(), as_dict=True)
                self._json({"keys": [{**public, "kid": "one", "alg": "RS256", "use": "sig"}]})
            case "/userinfo" if self.headers["Authorization"] == "Bearer access":
                somebody_else = {"sub": "somebody else"} if self.server.fault == "userinfo" else {}
                self._json({**self.server.claims, **somebody_else})
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/control":
            said = json.loads(body)
            self.server.claims, self.server.fault = said["claims"], said["fault"]
            self._json({})
        elif self.server.fault in ("500/token", "rubbish/token"):
            self._json([], status=500 if self.server.fault == "500/token" else 200)
        else:
            self._token({name: values[0] for name, values in parse_qs(body).items()})

    def _discovery(self) -> dict[str, Any]:
        issuer = self.server.issuer
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "userinfo_endpoint": f"{issuer}/userinfo",
            "jwks_uri": f"{issuer}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }

    def _authorize(self, asked: dict[str, str]) -> None:
        code = secrets.token_urlsafe(8)
        self.server.asked[code] = asked
        answers = {
            "denied": {"error": "access_denied", "state": asked["state"]},
            "error": {"error": "server_error", "state": asked["state"]},
            "state": {"code": code, "state": "of another browser"},
        }
        answer = answers.get(self.server.fault, {"code": code, "state": asked["state"]})
        self.send_response(302)
        self.send_header("Location", f"{asked['redirect_uri']}?{urlencode(answer)}")
        self.end_headers()

    def _token(self, form: dict[str, str]) -> None:
        """A code is good once, for the site that it was made for, and with the secret of its challenge."""
        asked = self.server.asked.pop(form.get("code", ""), {})
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proved = base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked.get("code_challenge")
        site = (form.get("client_id"), form.get("client_secret"), form.get("redirect_uri"))
        if not proved or site != (CLIENT_ID, CLIENT_SECRET, asked["redirect_uri"]):
            self._json({"error": "invalid_grant"}, status=400)
            return
        lifetime = {"expires_in": "a while"} if self.server.fault == "lifetime" else {}
        self._json({"access_token": "access", "id_token": self.server.id_token(asked), **lifetime})

    def _json(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """The output is the port and nothing else."""


if __name__ == "__main__":
    provider = _Provider(int(sys.argv[1]))
    sys.stdout.write(f"{provider.server_address[1]}\n")
    sys.stdout.flush()
    provider.serve_forever()
