"""What a sandbox starts with: tables, models with prices, an admin, a customer with credit and a key, a backend.

Repeating it changes nothing that is already right, so every start of the sandbox does it. Passwords and the key are
kept in sandbox.json and nowhere else in plain text; where that file is missing or damaged they are made anew.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from accounts import registration
from accounts.models import Account, User
from apikeys import keys
from apikeys import secret as key_secrets
from apikeys.models import ApiKey
from billing import catalogue, ledger, money, partitions, pricing
from billing.models import CreditLot, LanguageModel, LedgerAccount, TransferKind, Wallet
from flint.sandbox import files
from flint.settings import env
from gateway import backends

ADMIN = "admin@example.test"
CUSTOMER = "demo@example.test"
BACKEND = "demo"
# For the URLs that no model of the catalogue is for: sold, but not shown.
TEST_MODELS = {"test-completion": LanguageModel.Type.COMPLETION, "test-embedding": LanguageModel.Type.EMBEDDING}
CREDIT = 10 * money.PICO_PER_USD


def prepare(*, backend_url: str, now: datetime, tell: Callable[[str], None]) -> None:
    """Bring the database and sandbox.json to where a sandbox starts, telling each step."""
    path = settings.DATA_FOLDER / "sandbox.json"
    (settings.DATA_FOLDER / "mail").mkdir(mode=0o700, exist_ok=True)
    kept = _kept(path)
    tell(f"tables: {_migrate()}")
    partitions.ensure(now=now)
    tell(f"models: {catalogue.load(now=now) + _add_test_models(now)} added")
    account, passwords = _people(kept)
    _give_first_credit(account, now)
    key = _usable_key(account, kept.get("api_key", ""), now)
    # No credential: the address of the demo backend may change at every start.
    served = {public_id: public_id for public_id in LanguageModel.objects.values_list("public_id", flat=True)}
    backends.save(name=BACKEND, base_url=backend_url, credential="", models=served)
    tell(f"customer: {CUSTOMER} has {money.display(Wallet.objects.get(pk=account.pk).available)} to spend")
    site = settings.SITE_URL.rstrip("/")
    facts: dict[str, Any] = {
        "url": site,
        "api_base": f"{site}/v1",
        "admin": {"email": ADMIN, "password": passwords[ADMIN]},
        "customer": {"email": CUSTOMER, "password": passwords[CUSTOMER]},
        "api_key": key,
        "backend_url": backend_url,
        "database_url": env.text("DATABASE_URL"),
        "redis_url": env.text("REDIS_URL"),
    }
    if env.text("STRIPE_SECRET_KEY", "").startswith("sk_sim_"):
        facts["stripe_url"] = f"{env.text('STRIPE_API_BASE')}/control/"
    files.write(path, json.dumps(facts, indent=2) + "\n")


def _kept(path: Path) -> dict[str, str]:
    """The secrets of an earlier start: those that can be read, by e-mail address and `api_key`."""
    try:
        facts: Any = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    facts = facts if isinstance(facts, dict) else {}
    found = {"api_key": facts.get("api_key")}
    for role in ("admin", "customer"):
        person = facts.get(role)
        if isinstance(person, dict):
            found[str(person.get("email"))] = person.get("password")
    return {name: text for name, text in found.items() if isinstance(text, str) and text}


def _migrate() -> str:
    """Apply what is missing. Looking first is much quicker than Django's command, and a second start only looks."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not missing:
        return "up to date"
    call_command("migrate", verbosity=0, interactive=False, skip_checks=True)
    return f"{len(missing)} migrations applied"


def _add_test_models(now: datetime) -> int:
    added = 0
    for public_id, type_ in TEST_MODELS.items():
        limits = {"context_tokens": 8192, "max_output_tokens": 4096}
        with transaction.atomic():
            model, new = LanguageModel.objects.get_or_create(
                public_id=public_id,
                defaults={"family": "Sandbox", "name": public_id, "type": type_, "hidden": True, **limits},
            )
            if new:
                rates = {"input": 20_000, "output": 20_000}
                pricing.set_price(model=model, rates=rates, now=now)
                added += 1
    return added


def _people(kept: Mapping[str, str]) -> tuple[Account, dict[str, str]]:
    """The account of the customer, and the passwords with which the admin and the customer can sign in."""
    admin = User.objects.filter(email__iexact=ADMIN).first() or User(email=ADMIN)
    admin.is_active = admin.is_staff = admin.is_superuser = True
    if not User.objects.filter(email__iexact=CUSTOMER).exists():
        registration.create_account(email=CUSTOMER, name="Demo customer")
    customer = User.objects.get(email__iexact=CUSTOMER)
    customer.is_active = True
    passwords = {email: kept.get(email) or secrets.token_hex(10) for email in (ADMIN, CUSTOMER)}
    # A check takes a quarter of a second by design; both at once keep the start short.
    with ThreadPoolExecutor() as pool:
        right = pool.map(check_password, passwords.values(), (admin.password, customer.password))
    for user, password, matches in zip((admin, customer), passwords.values(), right, strict=True):
        if not matches:
            user.set_password(password)
        user.save()
        User.objects.vouch_for_email(user)
    return registration.account_of(email=CUSTOMER), passwords


def _give_first_credit(account: Account, now: datetime) -> None:
    ledger.credit(
        account=account,
        amount=CREDIT,
        kind=TransferKind.PROMOTION,
        source=LedgerAccount.PROMOTIONS,
        cause=f"sandbox:first-credit:{account.pk}",
        now=now,
        lot=CreditLot.Kind.PROMOTIONAL,
        reason="Sandbox: first credit",
    )


def _usable_key(account: Account, kept: str, now: datetime) -> str:
    """The kept key while the gateway would accept it, else a new one."""
    if ApiKey.objects.of_account(account).usable(now).filter(digest=key_secrets.digest(kept)).exists():
        return kept
    _, secret = keys.create(account=account, name="Demo key", now=now)
    return secret
