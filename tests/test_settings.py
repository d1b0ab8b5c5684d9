"""The environment becomes settings, or one error that lists all its faults."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

SETTINGS = Path(__file__).parent.parent / "flint" / "settings.py"
PRODUCTION = {
    "FLINT_ENV": "production",
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "FLINT_CREDENTIAL_KEYS": Fernet.generate_key().decode(),
    "SITE_URL": "https://api.example.com",
    "SUPPORT_EMAIL": "help@example.com",
    "EMAIL_HOST": "mail.internal",
    "DEFAULT_FROM_EMAIL": "Flint <flint@example.com>",
    "DATABASE_URL": "postgresql://flint:hunter2@db.internal:5432/flint?sslmode=require",
    "REDIS_URL": "redis://cache.internal/0",
    "CELERY_BROKER_URL": "redis://broker.internal/0",
}


def settings_from(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> dict[str, Any]:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(SETTINGS))


def faults_of(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        settings_from(monkeypatch, variables)
    return str(raised.value)


def test_production_starts_from_its_variables_without_any_sandbox_part(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, PRODUCTION)
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == ["api.example.com"]
    assert settings["DATABASES"]["default"]["HOST"] == "db.internal"
    assert settings["DATABASES"]["default"]["OPTIONS"]["sslmode"] == "require"
    assert settings["SESSION_COOKIE_SECURE"]
    assert "flint.sandbox" not in settings["INSTALLED_APPS"]


def test_every_missing_variable_is_named_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    message = faults_of(monkeypatch, {"FLINT_ENV": "production"})
    for name in PRODUCTION.keys() - {"FLINT_ENV"}:
        assert name in message


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DEBUG", "true", "DEBUG is on"),
        ("DEBUG", "maybe", "must be true or false"),
        ("SECRET_KEY", "short", "at least 50 characters"),
        ("SECRET_KEY", "a" * 60, "12 of them different"),
        ("SECRET_KEY", "django-insecure-0123456789abcdefghijklmnopqrstuvwxyzABCDEF", "SECRET_KEY is weak"),
        ("SECRET_KEY_FALLBACKS", "x", "SECRET_KEY_FALLBACKS is weak"),
        ("FLINT_CREDENTIAL_KEYS", "not-a-key", "not a Fernet key"),
        ("FLINT_CREDENTIAL_KEYS", "A" * 43 + "=", "FLINT_CREDENTIAL_KEYS is weak"),
        ("SUPPORT_EMAIL", "nope", "no e-mail address"),
        ("REDIS_URL", "http://x", "REDIS_URL is not a URL"),
        ("CELERY_BROKER_URL", "nonsense", "CELERY_BROKER_URL is not a URL"),
        ("SITE_URL", "https://", "no host name"),
        ("CSRF_TRUSTED_ORIGINS", "a", "CSRF_TRUSTED_ORIGINS"),
        ("FLINT_DATA", "/var/lib/flint", "belongs to the sandbox"),
        ("SITE_URL", "http://api.example.com", "served over https"),
        ("ALLOWED_HOSTS", "*", "lets any host name in"),
        ("DATABASE_URL", "mysql://root@db/flint", "not a PostgreSQL URL"),
        ("GATEWAY_LONGEST_CALL_SECONDS", "soon", "whole number from 10 to 7200"),
        ("GATEWAY_LONGEST_CALL_SECONDS", "5", "whole number from 10 to 7200"),
        ("LOG_LEVEL", "LOUD", "must be one of"),
    ],
)
def test_production_refuses(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    assert sentence in faults_of(monkeypatch, {**PRODUCTION, name: value})


def test_an_unknown_environment_is_not_taken_for_production_or_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be one of: sandbox, production" in faults_of(monkeypatch, {"FLINT_ENV": "prodution"})


def test_a_fault_never_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://flint:hunter2@db.internal:bad port/flint"
    assert "hunter2" not in faults_of(monkeypatch, {**PRODUCTION, "DATABASE_URL": url, "SECRET_KEY": "x"})


def test_the_command_line_lists_the_faults_without_a_traceback() -> None:
    ended = subprocess.run(
        [sys.executable, str(SETTINGS.parent.parent / "manage.py"), "check"],
        env={"FLINT_ENV": "production"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "SECRET_KEY is missing" in ended.stderr
    assert "Traceback" not in ended.stderr
