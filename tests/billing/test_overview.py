"""The first page of a customer: first steps until a call was seen, then what the account has and did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import AuditEvent
from apikeys.models import ApiKey
from billing import funds
from billing.models import CreditLot, RefusedCalls, Wallet
from billing.periods import DAY
from tests import factories, people
from tests.billing.looking import FILES, PAGES, called, customer, downloaded, member, text

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)


# Asked at each use: a run of all tests may begin on one day and end on another.
def now() -> datetime:
    return datetime.now(UTC)


def today() -> datetime:
    return now().replace(hour=0, minute=0, second=0, microsecond=0)


def shown_version(client: Client) -> str:
    return str(client.get("/").context["steps"].version)


class TestFirstSteps:
    def test_without_a_key_the_next_one_is_to_create_one(self) -> None:
        account, owner = customer()
        ApiKey.objects.filter(account=account).update(revoked_at=now())

        content = text(owner, "/")

        assert "Waiting for your key" in content
        assert 'href="/keys/create/">Create a key' in content
        assert "snippet-curl" not in content

    def test_who_may_not_create_keys_is_told_whom_to_ask(self) -> None:
        account, _ = customer()
        ApiKey.objects.filter(account=account).delete()

        assert "ask an owner or admin" in text(member(account, "billing"), "/")

    def test_with_a_key_the_call_is_shown_in_four_languages(self) -> None:
        _, owner = customer()

        content = text(owner, "/")

        assert "Waiting for your first call" in content
        assert [f'id="snippet-{language}-code"' in content for language in ("curl", "python", "javascript", "go")] == [
            True
        ] * 4
        assert content.count("http://127.0.0.1:8000/v1") == 4
        assert 'href="/">Refresh</a>' in content

    def test_the_page_is_told_nothing_new_until_the_call_comes(self) -> None:
        account, owner = customer()
        version = shown_version(owner)

        waiting = owner.get(f"/first-steps/?shown={version}")
        called(account, 38_400_000, at=now(), settled=False)
        arrived = owner.get(f"/first-steps/?shown={version}")

        assert (waiting.status_code, waiting.content) == (204, b"")
        content = arrived.content.decode()
        assert "Your first call arrived" in content
        assert "<code>deepseek-v4-flash</code>" in content
        assert "$0.0000384" in content
        assert "3 in, 2 out" in content
        assert "hx-get" not in content
        assert "First steps" not in text(owner, "/")

    def test_the_page_notices_credit(self) -> None:
        account = factories.account()
        owner = member(account, "owner")
        version = shown_version(owner)

        factories.promotion(account, 5 * 10**12, expires_at=datetime(2099, 1, 2, tzinfo=UTC))

        content = text(owner, f"/first-steps/?shown={version}")
        assert "$5.00</span> to spend" in content
        assert "2099-01-02 00:00" in content

    def test_the_page_notices_a_key_that_was_made_elsewhere(self) -> None:
        account, owner = customer()
        ApiKey.objects.filter(account=account).update(revoked_at=now())
        version = shown_version(owner)

        ApiKey.objects.create(account=account, name="new", digest=b"n" * 32, display="tk-n")

        assert "Waiting for your first call" in text(owner, f"/first-steps/?shown={version}")

    def test_the_page_tells_why_no_call_is_seen(self) -> None:
        account, owner = customer()
        version = shown_version(owner)

        RefusedCalls.objects.create(account=account, hour=now(), status=402, code="insufficient_balance", calls=2)

        content = text(owner, f"/first-steps/?shown={version}")
        assert "the balance was too low (402 <code>insufficient_balance</code>)" in content
        assert owner.get(f"/first-steps/?shown={shown_version(owner)}").status_code == 204

    @pytest.mark.parametrize("shown", ["", "x", "%00", "3." + "9" * 500])
    def test_garbage_gets_the_whole_part(self, shown: str) -> None:
        _, owner = customer()

        assert "Waiting for your first call" in text(owner, f"/first-steps/?shown={shown}")

    def test_an_empty_balance_is_told(self) -> None:
        assert "Nothing is left to spend" in text(member(factories.account(), "owner"), "/")
        assert "Nothing is left to spend" not in text(customer()[1], "/")


class TestMoney:
    def test_what_was_spent_today_this_month_and_before_is_told(self) -> None:
        account, owner = customer()
        yesterday, last_month = today() - timedelta(minutes=1), today().replace(day=1) - timedelta(minutes=1)
        called(account, 10**9, at=today())
        called(account, 10**10, at=yesterday)
        called(account, 10**11, at=last_month - timedelta(days=3))

        context = owner.get("/").context

        this_month = 10**9 + (10**10 if yesterday.month == today().month else 0)
        assert (context["today"], context["yesterday"], context["this_month"]) == (10**9, 10**10, this_month)
        assert context["this_month"] + context["last_month"] == 10**9 + 10**10 + 10**11
        assert context["chart"].bars[-1].total == 10**9

    def test_held_money_is_told_apart_from_the_balance(self) -> None:
        account, owner = customer()
        called(account, 0, at=now())
        factories.held(factories.ask(account, 10**11))

        content = text(owner, "/")

        assert 'title="0.9 USD">$0.90</span></dd>' in content
        assert 'of which <span class="money" title="0.1 USD">$0.10</span> is held by running calls' in content

    def test_a_balance_below_zero_is_told_with_what_to_do(self) -> None:
        account, owner = customer(5)
        called(account, 4, at=now())
        Wallet.objects.filter(account=account).update(posted=-7, debt=7)

        content = text(owner, "/")

        assert "The balance is below zero" in content
        assert "refused with 402" in content

    def test_promotional_credit_is_told_with_its_end(self) -> None:
        account, owner = customer()
        called(account, 0, at=now())
        factories.promotion(account, 5 * 10**12, expires_at=datetime(2099, 1, 2, 3, 4, tzinfo=UTC))
        factories.promotion(account, 7, expires_at=now() - timedelta(days=1))

        content = text(owner, "/")

        assert "$5.00</span> of promotional credit expires on" in content
        assert "2099-01-02 03:04" in content
        assert content.count("of promotional credit") == 1


def lot(remaining: int, days: float | None) -> CreditLot:
    return CreditLot(remaining=remaining, expires_at=None if days is None else NOW + days * DAY)


class TestRunway:
    @pytest.mark.parametrize(
        ("available", "lots", "spent", "days", "lasts"),
        [
            (1000, [], 700, 7, 10),
            (1000, [], 100, 1, 10),
            (1000, [lot(400, 1)], 700, 7, 7),  # 300 of the 400 expire unspent.
            (1000, [lot(400, 30)], 700, 7, 10),
            (1000, [lot(100, 5), lot(800, 3)], 700, 7, 4),  # The second is worth two days, from the first to the third.
            (1000, [lot(400, None)], 700, 7, 10),
            (50, [lot(400, 30)], 700, 7, 0),  # Held by calls.
            (0, [], 700, 7, 0),
            (-5, [], 700, 7, 0),
            (1000, [], 0, 7, None),
            (1000, [], 700, 0.9, None),
        ],
    )
    def test_counts_what_can_be_spent_before_it_expires(
        self, available: int, lots: list[CreditLot], spent: int, days: float, lasts: int | None
    ) -> None:
        found = funds.runway(available=available, lots=lots, spent=spent, over=days * DAY, now=NOW)

        assert found.days == lasts

    def test_a_day_after_the_first_call_it_is_told_and_before_that_it_is_a_dash(self) -> None:
        account, owner = customer(100 * 10**9)
        called(account, 10**9, at=now() - timedelta(hours=3))
        assert "Known a day after the first call" in text(owner, "/")

        called(account, 9 * 10**9, at=now() - timedelta(days=2))
        assert owner.get("/").context["runway"].days in range(15, 23)  # 90 at 10 in about two days.


class TestPage:
    def test_takes_few_queries_whatever_there_is(self, django_assert_max_num_queries: Any) -> None:
        account, owner = customer()
        text(owner, "/")  # The first page of a session also notes that it began.
        with django_assert_max_num_queries(12):
            text(owner, "/")
        for number in range(15):
            ApiKey.objects.create(account=account, name="k", digest=bytes([number]) * 32, display="tk-k")
            factories.promotion(account, 10, expires_at=now() + DAY)
            called(account, 3, at=now() - number * DAY, model_id=factories.price().model_id)
        with django_assert_max_num_queries(12):
            text(owner, "/")
        with django_assert_max_num_queries(12):
            text(owner, "/first-steps/")

    def test_shows_a_few_keys_and_where_the_others_are(self) -> None:
        account, owner = customer()
        called(account, 0, at=now())
        assert "Manage keys" in text(owner, "/")
        for number in range(6):
            ApiKey.objects.create(account=account, name="k", digest=bytes([number]) * 32, display="tk-k")
        assert "All keys" in text(owner, "/")

    def test_who_may_not_see_keys_sees_none(self) -> None:
        account, _ = customer()
        called(account, 3, at=now())

        assert "Manage keys" not in text(member(account, "billing"), "/")


class TestExports:
    @pytest.mark.parametrize("address", FILES)
    def test_who_takes_data_away_is_written_down(self, address: str) -> None:
        account, _ = customer()
        called(account, 7, at=now())
        client = member(account, "admin")

        name, _ = downloaded(client, address)
        assert client.head(address).status_code == 405

        event = AuditEvent.objects.get(account=account)
        assert (event.action, event.object, event.actor) == (
            "data.exported",
            name,
            account.users.get(memberships__role="admin"),
        )


class TestWhoMayLook:
    @pytest.mark.parametrize(
        "address", [*PAGES[1:], *FILES, "/first-steps/", f"/requests/{'0' * 8}-0000-0000-0000-{'0' * 12}/"]
    )
    def test_a_stranger_is_asked_to_sign_in(self, address: str) -> None:
        response = Client().get(address)

        assert (response.status_code, response["Location"]) == (302, f"/accounts/login/?next={address}")

    @pytest.mark.parametrize("address", [*PAGES[1:], *FILES, "/first-steps/"])
    def test_who_belongs_to_no_account_sees_nothing(self, address: str) -> None:
        assert "You belong to no account" in text(people.signed_in(factories.user()), address, status=403)

    @pytest.mark.parametrize("role", ["owner", "admin", "member", "billing"])
    def test_everybody_in_the_account_sees_what_it_used(self, role: str) -> None:
        account, _ = customer()
        call = called(account, 7, at=now())
        client = member(account, role)

        for address in ("/", "/usage/", "/requests/", f"/requests/{call.id}/", "/first-steps/"):
            assert client.get(address).status_code == 200

    @pytest.mark.parametrize(("role", "status"), [("owner", 200), ("admin", 200), ("billing", 200), ("member", 403)])
    def test_the_statement_is_for_those_who_may_see_money(self, role: str, status: int) -> None:
        account, _ = customer()
        client = member(account, role)

        assert client.get("/statement/").status_code == status
        assert client.get("/statement/export.csv?month=x").status_code == (400 if status == 200 else 403)

    @pytest.mark.parametrize("address", [*PAGES, *FILES, "/first-steps/"])
    def test_only_looking_is_allowed_and_nothing_is_kept_by_caches(self, address: str) -> None:
        _, owner = customer()

        assert owner.post(address).status_code == 405
        if address not in FILES:
            assert "no-store" in owner.get(address)["Cache-Control"]

    @pytest.mark.parametrize("address", [*PAGES, "/first-steps/"])
    def test_another_account_is_in_none_of_the_pages(self, address: str) -> None:
        account, _ = customer(123 * 10**12)
        ApiKey.objects.filter(account=account).update(name="alices key")
        call = called(account, 77_777_777, at=now())
        _, charlie = customer()

        content = text(charlie, address)

        secrets = ("alices key", "0.000077777777", "$123.00", str(call.id))
        assert [secret in content for secret in secrets] == [False] * 4
