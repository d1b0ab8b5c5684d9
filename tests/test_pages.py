from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from accounts.models import Account
from apikeys import keys
from billing import money
from flint import urls
from tests import factories, people

pytestmark = pytest.mark.django_db


def fail(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


urlpatterns = [*urls.urlpatterns, path("fail/", fail)]


def alice_with_a_call() -> tuple[Account, Client]:
    account, _ = people.customer("alice")
    keys.create(account=account, name="her laptop", now=datetime.now(UTC))
    factories.credit(account, 10 * money.PICO_PER_USD)
    factories.recorded(account, 38_400_000, amount=money.PICO_PER_USD)
    return account, people.owner_of(account)


def text(client: Client, address: str = "/") -> str:
    return client.get(address).content.decode()


class TestStranger:
    def test_sees_what_is_for_sale(self) -> None:
        content = text(Client())

        row = re.search(r"<tr>\s*<th[^>]*><code>deepseek-v4-flash</code>.*?</tr>", content, re.DOTALL)
        assert row is not None
        assert [cell in row[0] for cell in ("DeepSeek", "chat", "1,000,000", "$0.14", "$0.28")] == [True] * 5

    def test_sees_the_first_call_with_this_sites_address(self) -> None:
        assert "curl http://127.0.0.1:8000/v1/chat/completions" in text(Client())

    def test_can_sign_in(self) -> None:
        assert 'href="/accounts/login/"' in text(Client())

    def test_sees_no_model_that_is_not_for_sale(self) -> None:
        unpriced = factories.language_model()
        unlisted = factories.language_model(listed=False)
        factories.price(unlisted)
        contracted = factories.language_model()
        factories.price(contracted, account=factories.account())

        content = text(Client())

        assert not [model for model in (unpriced, unlisted, contracted) if model.public_id in content]

    def test_sees_nothing_of_customers(self) -> None:
        account, _ = alice_with_a_call()

        content = text(Client())

        assert account.name not in content
        assert "her laptop" not in content

    def test_only_looking_is_allowed(self) -> None:
        assert Client().post("/").status_code == 405
        assert Client().head("/").status_code == 200


class TestCustomer:
    def test_sees_balance_keys_and_calls(self) -> None:
        account, alice = alice_with_a_call()

        content = text(alice)

        assert account.name in content
        assert "$10.00" in content
        assert '<dt>Available</dt><dd><span class="money" title="9 USD">$9.00</span>' in content
        assert "her laptop" in content
        assert 'title="0.0000384 USD">$0.0000384</span>' in content

    def test_sees_no_key_that_is_revoked(self) -> None:
        account, alice = alice_with_a_call()
        keys.revoke(key=account.api_keys.get(), now=datetime.now(UTC))

        assert "Keys that work are listed here. There is none." in text(alice)

    def test_sees_nothing_of_another(self) -> None:
        account, _ = alice_with_a_call()
        charlie = people.owner_of(people.customer("charlie")[0])

        content = text(charlie)

        assert "her laptop" not in content
        assert account.api_keys.get().display not in content
        assert "$0.0000384" not in content
        assert "$10.00" not in content

    def test_sees_an_empty_wallet_before_the_first_credit(self) -> None:
        content = text(people.owner_of(people.customer("alice")[0]))

        assert content.count("$0.00</span>") == 1  # In the head.
        assert "Nothing is left to spend, so calls are refused with 402." in content

    def test_sees_the_contract_price_instead_of_the_list_price(self) -> None:
        account, _ = people.customer("alice")
        model = factories.price(input=9_990_000).model
        starts_at = datetime.now(UTC)
        factories.price(model, account=account, input=7_770_000, now=starts_at.replace(year=starts_at.year - 1))

        content = text(people.owner_of(account))

        assert "$7.77" in content
        assert "$9.99" not in content
        assert "your price" in content

    def test_is_told_when_disabled(self) -> None:
        account, alice = alice_with_a_call()
        Account.objects.filter(pk=account.pk).update(disabled_at=datetime.now(UTC))

        assert "This account is disabled" in text(alice)

    def test_sees_the_last_ten_calls(self) -> None:
        account, alice = alice_with_a_call()
        for _ in range(12):
            factories.recorded(account, 1)

        assert len(alice.get("/").context["calls"]) == 10

    def test_has_no_link_to_the_admin(self) -> None:
        assert "/admin/" not in text(alice_with_a_call()[1])

    def test_the_page_is_not_kept_by_caches(self) -> None:
        assert "no-store" in alice_with_a_call()[1].get("/")["Cache-Control"]


def test_staff_have_a_link_to_the_admin() -> None:
    assert 'href="/admin/"' in text(people.superuser())


class TestSigningIn:
    def test_works_with_e_mail_address_and_password(self) -> None:
        _, email = people.customer("alice", password=people.PASSWORD)
        client = Client()

        response = client.post("/accounts/login/", {"login": email.upper(), "password": people.PASSWORD})

        assert (response.status_code, response["Location"]) == (302, "/")
        assert email in text(client)

    def test_a_wrong_password_is_told_without_saying_which_part_is_wrong(self) -> None:
        _, email = people.customer("alice", password=people.PASSWORD)

        known = Client().post("/accounts/login/", {"login": email, "password": "wrong"}).content.decode()
        unknown = Client().post("/accounts/login/", {"login": "x@example.test", "password": "wrong"}).content.decode()

        sentence = "The email address and/or password you specified are not correct."
        assert sentence in known
        assert sentence in unknown

    def test_the_way_back_is_kept(self) -> None:
        assert 'name="next" value="/admin/"' in text(Client(), "/accounts/login/?next=/admin/")

    def test_signing_out_works(self) -> None:
        _, alice = alice_with_a_call()

        alice.post("/accounts/logout/")

        assert "Sign in" in text(alice)

    @pytest.mark.parametrize("address", ["/accounts/signup/", "/accounts/password/change/", "/accounts/logout/"])
    def test_allauths_other_pages_have_our_layout(self, address: str) -> None:
        assert "flint/app.css" in alice_with_a_call()[1].get(address, follow=True).content.decode()


class TestErrors:
    def test_a_page_that_does_not_exist(self) -> None:
        response = Client().get("/nowhere")

        assert response.status_code == 404
        assert "This page does not exist" in response.content.decode()

    def test_a_customer_in_the_admin(self) -> None:
        response = alice_with_a_call()[1].get("/admin/", follow=True)

        assert response.status_code == 403
        assert "You may not see this page" in response.content.decode()

    def test_a_form_without_its_token(self) -> None:
        response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "x", "password": "x"})

        assert response.status_code == 403
        assert "The form was not accepted" in response.content.decode()

    @override_settings(ROOT_URLCONF=__name__)
    def test_a_fault_of_ours(self) -> None:
        response = Client(raise_request_exception=False).get("/fail/")

        assert response.status_code == 500
        assert "Something failed on our side" in response.content.decode()


@pytest.mark.parametrize("address", ["/", "/accounts/login/", "/nowhere"])
class TestEveryPage:
    def test_says_that_this_is_a_sandbox(self, address: str) -> None:
        assert "Sandbox: demo backend, SIMULATED payments, no real money" in text(Client(), address)

    @override_settings(ENVIRONMENT="production")
    def test_does_not_say_so_in_production(self, address: str) -> None:
        assert "Sandbox" not in text(Client(), address)

    def test_has_neither_inline_styles_nor_scripts(self, address: str) -> None:
        response = Client().get(address)

        # JSON that a script reads is data; browsers do not run it.
        inline = r"<style|<script(?![^>]*(?:\ssrc=|application/json))|\sstyle=|\son\w+="
        assert not re.search(inline, response.content.decode())
        assert "unsafe-inline" not in response["Content-Security-Policy"]


def test_the_admin_says_that_this_is_a_sandbox() -> None:
    assert "Sandbox: demo backend, SIMULATED payments, no real money" in text(people.superuser(), "/admin/")


def test_the_styles_and_pictures_of_pages_are_there() -> None:
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', text(Client()) + text(people.superuser(), "/admin/"))
    assert len(addresses) > 3
    for address in set(addresses):
        response = Client().get(address)
        response.close()
        assert response.status_code == 200
