"""Typed readers for environment variables.

A fault does not raise at once: it is noted, a harmless stand-in is returned, and `finish` raises one
`ImproperlyConfigured` that lists every fault, so that an operator repairs a configuration in one go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict


class Environment:
    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._faults: list[str] = []

    def fault(self, message: str) -> None:
        self._faults.append(message)

    def finish(self) -> None:
        """Raise ImproperlyConfigured with every fault noted so far."""
        if self._faults:
            lines = "".join(f"\n  - {fault}" for fault in self._faults)
            raise ImproperlyConfigured(f"The environment is not usable:{lines}")

    def has(self, name: str) -> bool:
        return bool(self._variables.get(name, "").strip())

    def text(self, name: str, default: str | None = None, *, hint: str = "") -> str:
        """The value of `name`; without a default the variable is required."""
        if self.has(name):
            return self._variables[name].strip()
        if default is None:
            self.fault(f"{name} is missing. {hint}".strip())
            return ""
        return default

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.fault(f"{name} is {value!r}, but must be one of: {', '.join(choices)}.")
            return default
        return value

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        value = self.text(name, str(default))
        if not value.isascii() or not value.isdigit() or not minimum <= int(value) <= maximum:
            self.fault(f"{name} is {value!r}, but must be a whole number from {minimum} to {maximum}.")
            return default
        return int(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.text(name, str(default)).lower()
        if value in {"1", "true", "yes", "on"}:
            return True
        if value in {"0", "false", "no", "off"}:
            return False
        self.fault(f"{name} is {value!r}, but must be true or false.")
        return default

    def url(self, name: str, schemes: Iterable[str], default: str | None = None, *, hint: str = "") -> str:
        """A URL of one of these schemes, with a host."""
        value = self.text(name, default, hint=hint)
        parts = urlsplit(value)
        if value and (parts.scheme not in schemes or not (parts.hostname or parts.path)):
            # The value may hold a password, so it is not repeated.
            self.fault(f"{name} is not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
        return value

    def dollars(self, name: str, default: str, *, maximum: int) -> int:
        """An amount in USD, given in dollars and cents, as pico-USD."""
        value = self.text(name, default)
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", value) or Decimal(value) > maximum:
            self.fault(f"{name} is {value!r}, but must be dollars from 0 to {maximum}, such as 5 or 2.50.")
            return 0
        return int(Decimal(value) * 10**12)

    def social_providers(self) -> tuple[dict[str, Any], list[str], list[str]]:
        """allauth's SOCIALACCOUNT_PROVIDERS, its apps, and the origins of the providers that are configured."""
        providers: dict[str, Any] = {}
        origins: list[str] = []
        if app := self._social_app("SOCIAL_GOOGLE"):
            providers["google"] = {"APPS": [app], "SCOPE": ["email"], "OAUTH_PKCE_ENABLED": True}
            origins.append("https://accounts.google.com")
        if app := self._social_app("SOCIAL_GITHUB"):
            providers["github"] = {"APPS": [app], "SCOPE": ["user:email"]}
            origins.append("https://github.com")
        if app := self._social_app("SOCIAL_OIDC"):
            server = self.url("SOCIAL_OIDC_SERVER_URL", ["https", "http"], hint="The issuer of SOCIAL_OIDC_CLIENT_ID.")
            parts = urlsplit(server)
            if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost"):
                self.fault("SOCIAL_OIDC_SERVER_URL is http://, but who signs in there must be asked over https.")
            name = self.text("SOCIAL_OIDC_NAME", "Single sign-on")
            oidc = {**app, "provider_id": "oidc", "name": name, "settings": {"server_url": server}}
            providers["openid_connect"] = {"APPS": [oidc], "OAUTH_PKCE_ENABLED": True, "SCOPE": ["openid", "email"]}
            origins.append(self.text("SOCIAL_OIDC_ORIGIN", f"{parts.scheme}://{parts.netloc}"))
        apps = {name: f"allauth.socialaccount.providers.{name}" for name in providers}
        if "openid_connect" in apps:
            apps["openid_connect"] = "flint.single_sign_on"
        return providers, list(apps.values()), origins

    def _social_app(self, prefix: str) -> dict[str, str] | None:
        client_id, secret = self.text(f"{prefix}_CLIENT_ID", ""), self.text(f"{prefix}_SECRET", "")
        if bool(client_id) != bool(secret):
            self.fault(f"{prefix}_CLIENT_ID and {prefix}_SECRET belong together, and one of them is missing.")
        return {"client_id": client_id, "secret": secret} if client_id and secret else None

    def names(self, name: str, default: str = "") -> list[str]:
        """A comma-separated list."""
        return [item.strip() for item in self.text(name, default).split(",") if item.strip()]

    def integers(self, name: str, default: str, *, minimum: int, maximum: int) -> list[int]:
        """A comma-separated list of whole numbers."""
        items = self.names(name, default)
        if any(not (item.isascii() and item.isdigit() and minimum <= int(item) <= maximum) for item in items):
            self.fault(f"{name} must be whole numbers from {minimum} to {maximum} with commas between them.")
            return []
        return [int(item) for item in items]

    def networks(self, name: str, default: str) -> list[IPv4Network | IPv6Network]:
        """A comma-separated list of IP networks."""
        try:
            return [ip_network(item) for item in self.names(name, default)]
        except ValueError as wrong:
            self.fault(f"{name} must be IP networks with commas between them, such as 10.0.0.0/8: {wrong}.")
            return []

    def database(self, name: str, *, hint: str) -> dict[str, Any]:
        """Django's DATABASES entry for a libpq URL or connection string."""
        value = self.text(name, hint=hint)
        try:
            parts = conninfo_to_dict(value)
        except psycopg.ProgrammingError:
            # libpq's message would repeat the URL with its password.
            self.fault(f"{name} is not a PostgreSQL URL. It looks like postgresql://user:password@host:5432/name.")
            parts = {}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.pop("dbname", "flint"),
            "USER": parts.pop("user", ""),
            "PASSWORD": parts.pop("password", ""),
            "HOST": parts.pop("host", ""),
            "PORT": str(parts.pop("port", "")),
            "OPTIONS": parts,
        }


def read_file(path: Path) -> dict[str, str]:
    """KEY=value lines of a file; an absent file has none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}
