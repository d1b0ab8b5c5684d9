"""The page of auto-recharge, as a customer uses it, its mails, and what staff can do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import mail as outbox
from django.http import HttpResponseBase
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from billing import clock, recharge_mails
from billing.models import AutoRecharge, RechargeMail
from billing.payments import auto_recharge, flags, recharge
from tests import factories, people
from tests.accounts import browsing
from tests.billing.recharging import (
    attempts,
    behaves,
    card_of,
    owner,
    recharging,
    row,
    states,
    top_up,
    with_card,
)
from tests.stripe_simulator.process import StripeSimulator

pytestmark = pytest.mark.django_db
PAGE = "/billing/auto-recharge/"
AGREED = {"threshold": "30", "amount": "20", "monthly_cap": "100", "interval": "60", "consent": "on"}


@pytest.fixture
def mails(settings: Settings) -> list[Any]:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    outbox.outbox = []
    return outbox.outbox


def text(answer: HttpResponseBase) -> str:
    """What a person reads of it."""
    content = answer.content.decode()  # type: ignore[attr-defined]
    return " ".join(re.sub(r"<[^>]+>", "", content).split())


class TestThePage:
    def test_it_is_off_and_says_how_to_save_a_card(self, simulator: StripeSimulator) -> None:
        account, _email = people.customer("cardless")
        page = text(people.owner_of(account).get(PAGE))
        assert "It is off." in page
        assert "No card is saved." in page
        assert "I agree" not in page

    def test_a_customer_turns_it_on_changes_it_and_turns_it_off(self, simulator: StripeSimulator) -> None:
        account = with_card(simulator)
        client = people.owner_of(account)
        page = text(client.get(PAGE))
        assert "It is off." in page
        assert "Visa ending in 4242, expires" in page

        assert "It is on: when less than $30.00 can be spent, $20.00 is charged" in text(
            client.post(PAGE, AGREED, follow=True)
        )
        assert f"Agreed to by{owner(account).user.email}" in text(client.get(PAGE))
        assert "Auto-recharge is changed." in text(client.post(PAGE, {**AGREED, "amount": "25"}, follow=True))
        assert row(account).amount_cents == 2500

        assert "It is off." in text(client.post(f"{PAGE}off/", follow=True))
        assert row(account).stopped_reason == AutoRecharge.Stop.CUSTOMER

    def test_agreeing_asks_who_it_is_again_and_goes_on_with_what_was_agreed_to(
        self, simulator: StripeSimulator
    ) -> None:
        account = with_card(simulator)
        client = browsing.with_password(owner(account).user)
        assert client.get(PAGE).status_code == 200

        asked = client.post(PAGE, AGREED)

        assert asked["Location"].startswith("/accounts/reauthenticate/")
        assert auto_recharge.of(account) is None
        assert "Auto-recharge is on." in text(browsing.go_on(client, asked))
        assert row(account).amount_cents == 2000
        # From now on it is known for a while.
        client.post(PAGE, {**AGREED, "amount": "25"})
        assert row(account).amount_cents == 2500

    def test_turning_it_off_never_asks_who_it_is_again(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        client = browsing.with_password(owner(account).user)
        client.post(f"{PAGE}off/")
        assert not row(account).enabled

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("consent", "", "Nothing is charged without your consent."),
            ("amount", "4.99", "One payment cannot be of this amount; charge from $5.00 to $5,000.00."),
            ("amount", "1e99", "digits"),
            ("amount", "NaN", "Enter a number."),
            ("monthly_cap", "19", "The most in a month must allow one payment: from $20.00 to $500,000.00."),
            ("threshold", "0", "The balance must be above $0.00 and at most $5,000.00."),
            ("threshold", "-1", "greater than or equal to 0"),
            ("interval", "1", "Select a valid choice."),
        ],
    )
    def test_what_cannot_be_agreed_to_is_explained(
        self, simulator: StripeSimulator, field: str, value: str, said: str
    ) -> None:
        account = with_card(simulator)
        answer = people.owner_of(account).post(PAGE, {**AGREED, field: value})
        assert answer.status_code == 400
        assert said in text(answer)
        assert auto_recharge.of(account) is None

    def test_it_says_plainly_that_it_is_not_offered_with_tax(
        self, simulator: StripeSimulator, settings: Settings
    ) -> None:
        account = recharging(simulator)
        settings.STRIPE_TAX = True
        client = people.owner_of(account)
        page = text(client.get(PAGE))
        assert "It is paused: nothing is charged by itself" in page
        assert "Auto-recharge is not offered here: tax is added to each payment" in page
        assert "I agree" not in page
        assert client.post(PAGE, AGREED).status_code == 400

    def test_a_card_is_removed_in_one_click(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        page = text(people.owner_of(account).post(f"{PAGE}remove-card/", follow=True))
        assert "The card is removed, here and at Stripe." in page
        assert "No card is saved." in page
        assert "It is off." in page

    def test_a_card_that_stripe_did_not_remove_is_said_to_be_there(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        simulator.control("calls", kind="rate_limit", count="2", path="POST /v1/payment_methods")
        page = text(people.owner_of(account).post(f"{PAGE}remove-card/", follow=True))
        assert "The card is not removed yet." in page
        assert "Visa ending in 4242" in page

    def test_the_attempts_are_shown_with_why_it_stopped(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "expired_card")
        recharge.work(account.pk)
        client = people.owner_of(account)

        assert "Auto-recharge has stopped: the bank declines this card for good." in text(client.get("/"))
        page = text(client.get(PAGE))
        assert "It has stopped: the bank declines this card for good." in page
        assert "FailedThe card has expired. Take another one." in page
        assert "Charged in" in page

        client.post(f"{PAGE}off/")  # «Leave it off».
        assert "Auto-recharge has stopped" not in text(client.get("/"))

    def test_a_limit_that_is_reached_is_said(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        recharge.work(account.pk)
        AutoRecharge.objects.filter(account=account).update(monthly_cap_cents=2000)
        page = text(people.owner_of(account).get(PAGE))
        assert "This month's limit of $20.00 leaves no room for another charge" in page
        assert "$20.00 of $20.00" in page

    def test_it_is_said_that_it_is_paused(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        flags.flag(account.payments.get(), cause=factories.unique("du"), reason="fraudulent")
        page = text(people.owner_of(account).get(PAGE))
        assert "It is paused: we look at a payment of this account" in page
        assert "fraudulent" not in page

    def test_a_confirmation_that_the_bank_wants_is_one_click_away(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "authenticate")
        recharge.work(account.pk)
        client = people.owner_of(account)
        assert "your bank wants you to confirm the payment of $20.00" in text(client.get("/"))
        [payment] = attempts(account)
        assert f'href="{PAGE}"' in client.get(f"/billing/funds/{payment.pk}/").content.decode()

        page = client.get(PAGE).content.decode()
        form = dict(re.findall(r'<input type="hidden" name="(form_id|amount|other|save_card)" value="([^"]+)">', page))
        answer = client.post("/billing/funds/", form)
        assert answer.status_code == 303
        simulator.pays(answer.headers["Location"].rpartition("/")[2], "authenticate")
        session = answer.headers["Location"].rpartition("/")[2]
        simulator.ask("POST", f"/c/authenticate/{session}", {"passed": "yes"})
        paid = account.payments.get(kind="topup", amount_cents=2000)
        client.get(f"/billing/funds/{paid.pk}/")

        assert "your bank wants you to confirm" not in text(client.get("/"))
        recharge.tidy()
        assert states(account) == ["canceled"]
        paid.refresh_from_db()
        assert (paid.state, row(account).enabled) == ("paid", True)

    def test_it_needs_few_queries(
        self, simulator: StripeSimulator, django_assert_max_num_queries: DjangoAssertNumQueries
    ) -> None:
        account = recharging(simulator)
        for behaviour in ("", "insufficient_funds", "authenticate"):
            behaves(simulator, account, behaviour)
            AutoRecharge.objects.update(not_before=clock.now(), threshold_cents=100_000)
            recharge.work(account.pk)
        assert states(account) == ["paid", "failed", "requires_action"]
        client = people.owner_of(account)
        with django_assert_max_num_queries(13):
            client.get(PAGE)

    @pytest.mark.parametrize("address", [PAGE, f"{PAGE}off/", f"{PAGE}remove-card/"])
    def test_only_who_may_add_funds_is_let_in(self, simulator: StripeSimulator, address: str) -> None:
        account = recharging(simulator)
        member = people.signed_in(people.member_of(account, "member"))
        assert member.post(address, AGREED).status_code == 403
        assert Client().post(address, AGREED).status_code == 302
        stranger = people.owner_of(people.customer("charlie")[0])
        stranger.post(address, AGREED)
        assert (row(account).enabled, bool(card_of(account))) == (True, True)
        assert people.signed_in(people.member_of(account, "billing")).get(PAGE).status_code == 200

    def test_who_may_not_add_funds_sees_no_banner(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "lost_card")
        recharge.work(account.pk)
        member = people.signed_in(people.member_of(account, "member"))
        assert "Auto-recharge" not in text(member.get("/"))


@pytest.mark.usefixtures("at_rest")
class TestMails:
    @pytest.mark.parametrize(
        ("behaviour", "subject", "said"),
        [
            (
                "insufficient_funds",
                "your card could not be charged",
                "The card has not enough money. Nothing was charged",
            ),
            ("authenticate", "your bank wants you to confirm $20.00", "Confirm and pay it here:"),
            ("lost_card", "auto-recharge on Flint has stopped", "the bank declines this card for good"),
        ],
    )
    def test_each_outcome_is_mailed_once_to_who_may_add_funds(
        self, simulator: StripeSimulator, mails: list[Any], behaviour: str, subject: str, said: str
    ) -> None:
        account = recharging(simulator)
        billing = people.member_of(account, "billing")
        people.member_of(account, "member")
        behaves(simulator, account, behaviour)
        recharge.work(account.pk)

        for _ in range(3):
            recharge_mails.send_due()

        assert sorted(mail.to[0] for mail in mails) == sorted([owner(account).user.email, billing.email])
        assert subject in mails[0].subject
        assert said in mails[0].body
        assert PAGE in mails[0].body
        assert "lost" not in mails[0].body
        assert len({mail.extra_headers["Message-ID"] for mail in mails}) == 2

    def test_one_that_the_mail_server_did_not_take_is_sent_later(
        self, simulator: StripeSimulator, mails: list[Any], settings: Settings
    ) -> None:
        account = recharging(simulator)
        behaves(simulator, account, "insufficient_funds")
        recharge.work(account.pk)
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1
        assert recharge_mails.send_due() == 0
        waiting = RechargeMail.objects.get(account=account)
        assert (waiting.state, waiting.attempts, waiting.error) == ("waiting", 1, "ConnectionRefusedError")

        settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
        RechargeMail.objects.update(next_attempt_at=waiting.created_at)
        assert recharge_mails.send_due() == 1

    def test_who_has_left_in_between_is_not_mailed(self, simulator: StripeSimulator, mails: list[Any]) -> None:
        account = recharging(simulator)
        billing = people.member_of(account, "billing")
        behaves(simulator, account, "insufficient_funds")
        recharge.work(account.pk)
        billing.memberships.all().delete()

        assert recharge_mails.send_due() == 1
        assert RechargeMail.objects.get(recipient=billing).state == "dropped"


class TestStaff:
    def test_they_turn_it_off_and_it_is_told_but_never_on(self, simulator: StripeSimulator) -> None:
        account = recharging(simulator)
        staff, where = people.superuser(), "/admin/billing/autorecharge/"
        assert "Turn off" in staff.get(where).content.decode()

        for _ in range(2):
            staff.post(where, {"action": "turn_off", "_selected_action": [account.pk]})

        assert (row(account).enabled, row(account).stopped_reason) == (False, AutoRecharge.Stop.STAFF)
        assert RechargeMail.objects.filter(account=account, about="stopped", reason="staff").count() == 1
        assert staff.post(f"{where}{account.pk}/change/", {"enabled": "on"}).status_code == 403
        top_up(simulator, account)
        assert not row(account).enabled
        page = text(people.owner_of(account).get(PAGE))
        assert "It has stopped: turned off by our staff." in page
