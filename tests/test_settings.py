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
    assert settings["BACKEND_NETWORKS"] == []


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
        ("METRICS_TOKEN", "short", "at least 20 characters"),
        ("LOG_FORMAT", "xml", "must be one of: text, json"),
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
        ("BACKEND_NETWORKS", "10.0.0.7/8", "BACKEND_NETWORKS must be IP networks"),
        ("BACKEND_NETWORKS", "anywhere", "BACKEND_NETWORKS must be IP networks"),
        ("SITE_URL", "http://api.example.com", "served over https"),
        ("ALLOWED_HOSTS", "*", "lets any host name in"),
        ("DATABASE_URL", "mysql://root@db/flint", "not a PostgreSQL URL"),
        ("GATEWAY_LONGEST_CALL_SECONDS", "soon", "whole number from 10 to 7200"),
        ("GATEWAY_LONGEST_CALL_SECONDS", "5", "whole number from 10 to 7200"),
        ("LOG_LEVEL", "LOUD", "must be one of"),
        ("DEFAULT_FROM_EMAIL", "Flint", "holds no e-mail address"),
        ("EMAIL_PORT", "99999", "whole number from 1 to 65535"),
        ("EMAIL_TIMEOUT", "0", "whole number from 1 to 60"),
        ("EMAIL_BACKEND", "django.core.mail.backends.filebased.EmailBackend", "EMAIL_BACKEND cannot be chosen"),
        ("WELCOME_CREDIT_USD", "-5", "dollars from 0 to 1000"),
        ("WELCOME_CREDIT_USD", "5.001", "dollars from 0 to 1000"),
        ("WELCOME_CREDIT_USD", "1001", "dollars from 0 to 1000"),
        ("SOCIAL_GOOGLE_CLIENT_ID", "id", "SOCIAL_GOOGLE_CLIENT_ID and SOCIAL_GOOGLE_SECRET belong together"),
        ("SOCIAL_GITHUB_SECRET", "secret", "SOCIAL_GITHUB_CLIENT_ID and SOCIAL_GITHUB_SECRET belong together"),
        ("STRIPE_API_BASE", "https://stripe.example.com", "not on this machine"),
        ("STRIPE_TAX", "true", "STRIPE_TAX_CODE is missing"),
        ("TOPUP_MIN_CENTS", "49", "whole number from 50 to"),
        ("TOPUP_MIN_CENTS", "600000", "more than TOPUP_MAX_CENTS"),
        ("TOPUP_AMOUNTS", "1000,10.00", "whole numbers from 500 to 500000"),
        ("TOPUP_AMOUNTS", "499", "whole numbers from 500 to 500000"),
    ],
)
def test_production_refuses(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    assert sentence in faults_of(monkeypatch, {**PRODUCTION, name: value})


def test_production_sends_mail_over_tls_and_promises_no_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, PRODUCTION)
    assert settings["EMAIL_BACKEND"] == "django.core.mail.backends.smtp.EmailBackend"
    assert (settings["EMAIL_HOST"], settings["EMAIL_PORT"], settings["EMAIL_USE_TLS"]) == ("mail.internal", 587, True)
    assert settings["WELCOME_CREDIT"] == 0
    assert settings["STAFF_NEED_SECOND_FACTOR"]


COMPANY = {"COMPANY_NAME": "Flint GmbH", "COMPANY_ADDRESS": "Hauptstraße 1; 12345 Berlin"}
STRIPE = {"STRIPE_SECRET_KEY": "sk_live_hunter2", "STRIPE_WEBHOOK_SECRETS": "whsec_0123456789abcdef", **COMPANY}
SANDBOX = {name: value for name, value in PRODUCTION.items() if name != "FLINT_ENV"}
SIMULATOR = {"STRIPE_SECRET_KEY": "sk_sim_hunter2", "STRIPE_API_BASE": "http://127.0.0.1:12111"}


def test_without_a_key_of_stripe_nothing_of_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, PRODUCTION)
    assert settings["STRIPE_SECRET_KEY"] == ""
    assert settings["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]["form-action"][1:] == []


def test_a_live_key_is_for_production_and_takes_real_money(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, {**PRODUCTION, **STRIPE})
    assert settings["STRIPE_LIVEMODE"] is True
    assert settings["STRIPE_WEBHOOK_SECRETS"] == ["whsec_0123456789abcdef"]
    assert settings["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]["form-action"][1:] == ["https://checkout.stripe.com"]
    assert "live, but this is a sandbox" in faults_of(monkeypatch, {**SANDBOX, **STRIPE})


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"STRIPE_SECRET_KEY": "pk_live_hunter2"}, "no secret or restricted key"),
        ({"STRIPE_WEBHOOK_SECRETS": ""}, "STRIPE_WEBHOOK_SECRETS is missing"),
        ({"STRIPE_WEBHOOK_SECRETS": " , "}, "STRIPE_WEBHOOK_SECRETS is missing"),
        ({"STRIPE_WEBHOOK_SECRETS": "whsec_0123456789abcdef,whsec_"}, "not the secret of a webhook endpoint"),
        ({"STRIPE_API_BASE": "http://127.0.0.1:12111"}, "a live key goes to Stripe and nowhere else"),
        ({"STRIPE_SECRET_KEY": "rk_live_x", "STRIPE_API_BASE": "http://localhost:1"}, "a live key goes to Stripe"),
        (SIMULATOR, "is the simulator's, but FLINT_ENV is production"),
        ({"STRIPE_SECRET_KEY": "rk_test_hunter2"}, "is a test key: anybody could pay with a test card"),
        ({**SIMULATOR, "STRIPE_SECRET_KEY": "sk_test_hunter2"}, "STRIPE_API_BASE is set, but FLINT_ENV is production"),
    ],
)
def test_production_refuses_a_key_of_stripe(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    message = faults_of(monkeypatch, {**PRODUCTION, **STRIPE, **variables})
    assert sentence in message
    assert "hunter2" not in message


def test_a_site_that_is_itself_a_test_takes_test_money(monkeypatch: pytest.MonkeyPatch) -> None:
    test = {"STRIPE_SECRET_KEY": "sk_test_x", "STRIPE_TEST_MONEY": "true"}
    assert settings_from(monkeypatch, {**PRODUCTION, **STRIPE, **test})["STRIPE_LIVEMODE"] is False


def test_the_simulator_is_for_the_sandbox_and_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = {**SANDBOX, **STRIPE, **SIMULATOR}
    settings = settings_from(monkeypatch, simulator)
    assert settings["STRIPE_LIVEMODE"] is False
    assert settings["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]["form-action"][1:] == ["http://127.0.0.1:12111"]
    elsewhere = {**simulator, "STRIPE_API_BASE": "http://10.0.0.7:12111"}
    assert "not on this machine" in faults_of(monkeypatch, elsewhere)
    assert "STRIPE_API_BASE is missing" in faults_of(monkeypatch, {**simulator, "STRIPE_API_BASE": ""})


def test_a_password_never_goes_to_a_mail_server_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = {"EMAIL_HOST_USER": "flint", "EMAIL_HOST_PASSWORD": "hunter2", "EMAIL_USE_TLS": "false"}
    message = faults_of(monkeypatch, {**PRODUCTION, **mail})
    assert "EMAIL_HOST_USER needs EMAIL_USE_TLS or EMAIL_USE_SSL" in message
    assert "hunter2" not in message


def test_tls_and_ssl_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    message = faults_of(monkeypatch, {**PRODUCTION, "EMAIL_USE_TLS": "true", "EMAIL_USE_SSL": "true"})
    assert "EMAIL_USE_SSL and EMAIL_USE_TLS are both on" in message
    assert settings_from(monkeypatch, {**PRODUCTION, "EMAIL_USE_SSL": "true"})["EMAIL_USE_TLS"] is False


def test_a_welcome_credit_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, {**PRODUCTION, "WELCOME_CREDIT_USD": "2.50"})
    assert settings["WELCOME_CREDIT"] == 2_500_000_000_000


def test_other_sites_sign_people_in_only_where_they_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(monkeypatch, PRODUCTION)["SOCIALACCOUNT_PROVIDERS"] == {}
    chosen = {
        "SOCIAL_GITHUB_CLIENT_ID": "id",
        "SOCIAL_GITHUB_SECRET": "secret",
        "SOCIAL_OIDC_CLIENT_ID": "id",
        "SOCIAL_OIDC_SECRET": "secret",
        "SOCIAL_OIDC_SERVER_URL": "https://login.example.com/realm",
    }

    settings = settings_from(monkeypatch, {**PRODUCTION, **chosen})

    assert set(settings["SOCIALACCOUNT_PROVIDERS"]) == {"github", "openid_connect"}
    assert "allauth.socialaccount.providers.github" in settings["INSTALLED_APPS"]
    assert "allauth.socialaccount.providers.google" not in settings["INSTALLED_APPS"]
    allowed = settings["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]["form-action"]
    assert allowed[1:] == ["https://github.com", "https://login.example.com"]


def test_a_provider_is_asked_over_https(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"SOCIAL_OIDC_CLIENT_ID": "id", "SOCIAL_OIDC_SECRET": "s", "SOCIAL_OIDC_SERVER_URL": "http://login.x"}
    assert "must be asked over https" in faults_of(monkeypatch, {**PRODUCTION, **chosen})
    del chosen["SOCIAL_OIDC_SERVER_URL"]
    assert "SOCIAL_OIDC_SERVER_URL is missing" in faults_of(monkeypatch, {**PRODUCTION, **chosen})


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


def test_where_customers_pay_receipts_say_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    message = faults_of(monkeypatch, {**PRODUCTION, **STRIPE, "COMPANY_NAME": "", "COMPANY_ADDRESS": ""})

    assert "COMPANY_NAME is missing" in message
    assert "COMPANY_ADDRESS is missing" in message


def test_the_address_of_the_company_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_from(monkeypatch, {**PRODUCTION, "COMPANY_ADDRESS": "1 Main Street, Floor 2; 12345 Town;"})

    assert settings["COMPANY_ADDRESS"] == ["1 Main Street, Floor 2", "12345 Town"]
