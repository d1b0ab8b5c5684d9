from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import registration
from accounts.models import Account, User
from apikeys import keys, secret
from apikeys.models import ApiKey
from billing import money
from billing.models import LanguageModel, Transfer, Wallet
from flint.sandbox import seed
from gateway.models import Backend
from tests import factories

pytestmark = pytest.mark.django_db

URL = "http://127.0.0.1:4000/v1"


@pytest.fixture
def path(tmp_path: Path, settings: Any) -> Path:
    settings.DATA_FOLDER = tmp_path
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # The real one is slow by design.
    return tmp_path / "sandbox.json"


def prepare(backend_url: str = URL) -> str:
    out = io.StringIO()
    call_command("prepare_sandbox", "--backend-url", backend_url, stdout=out)
    return out.getvalue()


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def demo_account() -> Account:
    return registration.account_of(email=seed.CUSTOMER)


class TestFirstStart:
    def test_sandbox_json_has_exactly_what_the_supervisor_needs(self, path: Path) -> None:
        prepare()

        facts = facts_of(path)
        assert set(facts) == {
            "url", "api_base", "admin", "customer", "api_key", "backend_url", "database_url", "redis_url"
        }  # fmt: skip
        assert (facts["url"], facts["api_base"]) == ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1")
        assert facts["backend_url"] == URL
        assert facts["database_url"].startswith("postgresql://")
        assert facts["redis_url"].startswith("redis://")
        assert set(facts["admin"]) == set(facts["customer"]) == {"email", "password"}

    def test_only_its_owner_can_read_it(self, path: Path) -> None:
        prepare()

        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_the_customer_has_ten_dollars_and_the_standard_tier(self, path: Path) -> None:
        prepare()

        account = demo_account()
        assert account.tier.name == "Standard"
        assert Wallet.objects.get(pk=account.pk).available == 10 * money.PICO_PER_USD

    def test_the_key_is_the_customers(self, path: Path) -> None:
        prepare()

        key = ApiKey.objects.get(digest=secret.digest(facts_of(path)["api_key"]))
        assert key.account == demo_account()

    def test_the_backend_serves_every_model(self, path: Path) -> None:
        prepare()

        backend = Backend.objects.get(name="demo")
        assert backend.base_url == URL
        assert backend.routes.count() == LanguageModel.objects.count() >= 16

    @pytest.mark.parametrize(("role", "page"), [("admin", "/admin/"), ("customer", "/")])
    def test_both_can_sign_in(self, path: Path, role: str, page: str) -> None:
        prepare()
        person = facts_of(path)[role]
        client = Client()

        client.post("/accounts/login/", {"login": person["email"], "password": person["password"]})

        assert person["email"] in client.get(page).content.decode()

    def test_every_step_is_told(self, path: Path) -> None:
        lines = prepare().splitlines()

        assert [line.partition(":")[0] for line in lines] == ["tables", "models", "customer"]


class TestSecondStart:
    def test_nothing_changes(self, path: Path) -> None:
        prepare()
        before, hashes = facts_of(path), list(User.objects.order_by("pk").values_list("password", flat=True))

        prepare()

        assert facts_of(path) == before
        assert list(User.objects.order_by("pk").values_list("password", flat=True)) == hashes
        assert Transfer.objects.filter(wallet=demo_account().pk).count() == 1
        assert demo_account().api_keys.count() == 1

    def test_the_backend_may_have_moved(self, path: Path) -> None:
        prepare()

        prepare("http://127.0.0.1:5000/v1")

        assert Backend.objects.get(name="demo").base_url == "http://127.0.0.1:5000/v1"
        assert facts_of(path)["backend_url"] == "http://127.0.0.1:5000/v1"

    def test_a_password_that_was_changed_is_set_again(self, path: Path) -> None:
        prepare()
        admin = User.objects.get(email=seed.ADMIN)
        admin.set_password("something else entirely")
        admin.is_superuser = False
        admin.save()

        prepare()

        admin.refresh_from_db()
        assert admin.check_password(facts_of(path)["admin"]["password"])
        assert admin.is_superuser

    @pytest.mark.parametrize("state", ["revoked_at", "disabled_at", "expires_at"])
    def test_a_key_that_is_no_longer_usable_is_replaced(self, path: Path, state: str) -> None:
        prepare()
        before = facts_of(path)["api_key"]
        ApiKey.objects.filter(digest=secret.digest(before)).update(**{state: "2020-01-01T00:00:00Z"})

        prepare()

        after = facts_of(path)["api_key"]
        assert after != before
        assert demo_account().api_keys.filter(digest=secret.digest(after)).exists()

    def test_a_key_of_somebody_else_is_not_taken(self, path: Path, now: Any) -> None:
        prepare()
        _, strange = keys.create(account=factories.account(), name="theirs", now=now)
        path.write_text(json.dumps({**facts_of(path), "api_key": strange}))

        prepare()

        assert facts_of(path)["api_key"] != strange

    @pytest.mark.parametrize(
        "damage",
        [
            None,
            "",
            "{",
            "[]",
            "null",
            "3",
            '{"admin": 5, "customer": {"email": [], "password": 7}, "api_key": {}}',
            "\0",
        ],
    )
    def test_a_file_that_is_lost_or_damaged_means_new_secrets(self, path: Path, damage: str | None) -> None:
        prepare()
        before = facts_of(path)
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)

        prepare()

        after = facts_of(path)
        assert after["api_key"] != before["api_key"]
        for role, email in (("admin", seed.ADMIN), ("customer", seed.CUSTOMER)):
            assert after[role]["password"] != before[role]["password"]
            assert User.objects.get(email=email).check_password(after[role]["password"])

    def test_bytes_that_are_no_text_mean_new_secrets(self, path: Path) -> None:
        prepare()
        path.write_bytes(b"\xff\xfe")

        prepare()

        assert facts_of(path)["api_key"]


class TestRefusals:
    def test_production_is_refused(self, path: Path, settings: Any) -> None:
        settings.ENVIRONMENT = "production"

        with pytest.raises(CommandError, match="not for production"):
            prepare()

        assert not path.exists()

    def test_what_is_no_address_is_refused(self, path: Path) -> None:
        with pytest.raises(CommandError, match="must look like"):
            prepare("nowhere")

    def test_a_file_that_cannot_be_used_is_told(self, path: Path) -> None:
        path.mkdir()

        with pytest.raises(CommandError, match=r"sandbox\.json cannot be used"):
            prepare()

    def test_the_address_is_needed(self) -> None:
        with pytest.raises(CommandError, match="required: --backend-url"):
            call_command("prepare_sandbox")

    def test_it_has_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            call_command("prepare_sandbox", "--help")

        assert ended.value.code == 0
        assert "--backend-url" in capsys.readouterr().out
