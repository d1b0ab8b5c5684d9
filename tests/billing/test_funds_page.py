"""Adding funds as a customer does it: how much, Stripe's page, and back to what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.db.models import F
from django.http import HttpResponseBase
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import Account
from billing import payment_log
from billing.models import Payment
from billing.payments import fulfilment, stripe_api
from tests import factories, people
from tests.billing.fake_stripe import FakeStripe

pytestmark = pytest.mark.django_db
FUNDS = "/billing/funds/"


@pytest.fixture
def account() -> Account:
    return people.customer("payer")[0]


@pytest.fixture
def owner(account: Account) -> Client:
    return people.owner_of(account)


def ask_for(owner: Client, amount: str = "2500", **fields: Any) -> HttpResponseBase:
    return owner.post(FUNDS, {"amount": amount, "form_id": str(uuid4()), **fields})


def text(answer: HttpResponseBase) -> str:
    return answer.content.decode()  # type: ignore[attr-defined,no-any-return]


def back_from(stripe: FakeStripe, owner: Client, how: str = "success_url", **headers: str) -> str:
    """The page to which Stripe sends the customer."""
    (asked,) = [params for method, path, params in stripe.asked if (method, path[-9:]) == ("POST", "/sessions")]
    url = urlsplit(asked[how])
    return text(owner.get(f"{url.path}?{url.query}", headers=headers))


def seconds_pass() -> None:
    """So many that the page may ask Stripe again."""
    Payment.objects.update(asked_at=F("asked_at") - fulfilment.LOOK_PAUSE)


def questions(stripe: FakeStripe) -> int:
    return sum(method == "GET" and "/sessions/" in path for method, path, _params in stripe.asked)


def test_payments_are_listed_in_the_order_in_which_their_forms_were_opened(
    owner: Client, account: Account, stripe: FakeStripe
) -> None:
    forms = [str(owner.get(FUNDS).context["form"]["form_id"].value()) for _ in range(5)]
    for form in forms:
        ask_for(owner, form_id=form)
    listed = [str(line.payment.pk) for line in payment_log.page(account).lines]
    assert listed == forms[::-1]


def test_it_goes_to_stripe_and_comes_back_with_the_money(owner: Client, account: Account, stripe: FakeStripe) -> None:
    answer = ask_for(owner)
    (session,) = stripe.made("checkout.session")
    assert (answer.status_code, answer.headers["Location"]) == (303, session["url"])
    assert "not paid yet" in text(owner.get(FUNDS))

    stripe.pay(session["id"], tax=475)

    page = back_from(stripe, owner)
    assert "$25.00</span> was added to your balance" in page
    assert "$29.75" in page, "What was paid, with the tax."
    before = account.wallet.posted
    assert f'title="{before // 10**12}' in page
    assert "Under way" not in text(owner.get(FUNDS))


@pytest.mark.parametrize("chosen", ["other", ""])
def test_an_amount_of_ones_own_is_exact_and_typing_it_chooses_it(
    owner: Client, account: Account, stripe: FakeStripe, chosen: str
) -> None:
    assert ask_for(owner, chosen, other="10.07").status_code == 303
    assert Payment.objects.get(account=account).amount_cents == 1007


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": "other"},
        {"amount": "other", "other": "4.99"},
        {"amount": "other", "other": "5000.01"},
        {"amount": "other", "other": "10.001"},
        {"amount": "other", "other": "NaN"},
        {"amount": "other", "other": "-10"},
        {"amount": "other", "other": "1e999"},
        {"amount": "2500", "other": "40"},
        {"amount": "2501"},
        {"amount": ""},
        {"amount": "", "other": "4.99"},
        {"amount": "", "other": "much"},
        {"amount": "2500", "form_id": "nonsense"},
        {"amount": "other", "other": "1e999999"},
        {"amount": "other", "other": "-1e999999"},
    ],
)
def test_a_wrong_amount_is_said_and_starts_nothing(
    owner: Client, account: Account, stripe: FakeStripe, fields: dict[str, str]
) -> None:
    answer = ask_for(owner, **fields)
    assert answer.status_code == 200
    assert "errorlist" in text(answer)
    assert not Payment.objects.filter(account=account).exists()
    assert stripe.asked == []


def test_a_double_click_is_one_payment(owner: Client, account: Account, stripe: FakeStripe) -> None:
    form = str(uuid4())
    first, second = (ask_for(owner, form_id=form).headers["Location"] for _ in range(2))
    assert first == second
    assert len(stripe.made("checkout.session")) == Payment.objects.filter(account=account).count() == 1


def test_an_outage_is_said_and_what_was_begun_can_be_gone_on_with(
    owner: Client, account: Account, stripe: FakeStripe
) -> None:
    stripe.failing_with = 500
    answer = ask_for(owner)
    assert answer.status_code == 503
    assert "Nothing was charged" in text(answer)
    payment = Payment.objects.get(account=account)
    assert (payment.state, payment.checkout_session) == (Payment.State.OPEN, None)

    stripe.failing_with = None
    page = text(owner.get(f"{FUNDS}{payment.pk}/?left=1"))
    assert "Continue to payment" in page
    again = owner.post(f"{FUNDS}{payment.pk}/pay/")
    assert again.status_code == 303
    assert len(stripe.made("checkout.session")) == 1


def test_who_left_the_page_of_stripe_can_go_back_to_it(owner: Client, stripe: FakeStripe) -> None:
    url = ask_for(owner).headers["Location"]
    page = back_from(stripe, owner, "cancel_url")
    assert "nothing was charged" in page
    assert "hx-trigger" not in page
    (payment,) = Payment.objects.filter(checkout_session=stripe.made("checkout.session")[0]["id"])
    assert owner.post(f"{FUNDS}{payment.pk}/pay/").headers["Location"] == url


def test_a_bank_that_takes_its_time_is_waited_for(owner: Client, stripe: FakeStripe) -> None:
    ask_for(owner)
    (session,) = stripe.made("checkout.session")
    stripe.pay(session["id"], status="processing")
    page = back_from(stripe, owner)
    assert "still working on it" in page
    assert "hx-trigger" in page
    assert "Look again" in page, "Without scripts."

    stripe.attempt(session["id"], status="succeeded")
    seconds_pass()
    part = back_from(stripe, owner, **{"HX-Request": "true"})
    assert "was added to your balance" in part
    assert "hx-trigger" not in part
    assert "<html" not in part


def test_a_failure_and_a_misfit_are_not_called_success(owner: Client, stripe: FakeStripe) -> None:
    ask_for(owner)
    (session,) = stripe.made("checkout.session")
    intent = stripe.pay(session["id"])
    stripe.objects[intent]["amount_received"] = 1
    page = back_from(stripe, owner)
    assert "nothing was credited yet" in page
    stripe.objects[intent] |= {"status": "requires_payment_method", "amount_received": 0}
    seconds_pass()
    assert "This payment failed" in back_from(stripe, owner)


def test_stripe_away_on_the_way_back_promises_nothing(owner: Client, stripe: FakeStripe) -> None:
    ask_for(owner)
    stripe.pay(stripe.made("checkout.session")[0]["id"])
    stripe.failing_with = 500
    page = back_from(stripe, owner)
    assert "If you have paid, the money will be added" in page
    assert "hx-trigger" in page


def test_however_many_look_stripe_is_asked_once_in_a_while_and_what_is_known_is_shown(
    owner: Client, stripe: FakeStripe
) -> None:
    ask_for(owner)
    (session,) = stripe.made("checkout.session")
    stripe.pay(session["id"], status="processing")
    for _ in range(3):
        assert "still working on it" in back_from(stripe, owner)
    assert questions(stripe) == 1

    seconds_pass()
    for _ in range(3):
        back_from(stripe, owner)
    assert questions(stripe) == 2

    stripe.attempt(session["id"], status="succeeded")
    fulfilment.fulfil_session(session["id"])  # As a message of Stripe's does.
    asked = questions(stripe)
    assert "was added to your balance" in back_from(stripe, owner)
    assert questions(stripe) == asked


def test_who_comes_back_from_stripes_page_again_is_told_at_once(owner: Client, stripe: FakeStripe) -> None:
    ask_for(owner)
    (session,) = stripe.made("checkout.session")
    assert "We are waiting for the payment service" in back_from(stripe, owner)
    payment = Payment.objects.get(checkout_session=session["id"])
    owner.post(f"{FUNDS}{payment.pk}/pay/")
    stripe.pay(session["id"])
    assert "was added to your balance" in back_from(stripe, owner)


def test_an_outage_is_said_at_every_look_and_asked_about_once_in_a_while(owner: Client, stripe: FakeStripe) -> None:
    ask_for(owner)
    stripe.pay(stripe.made("checkout.session")[0]["id"])
    stripe.failing_with = 500
    for _ in range(3):
        assert "does not answer at the moment" in back_from(stripe, owner)
    assert questions(stripe) == 1 + stripe_api.RETRIES

    stripe.failing_with = None
    seconds_pass()
    assert "was added to your balance" in back_from(stripe, owner)


def test_a_refusal_ends_the_payment_and_the_next_one_works(owner: Client, account: Account, stripe: FakeStripe) -> None:
    ask_for(owner)
    stripe.objects.clear()  # The customer was deleted at Stripe.
    assert ask_for(owner).status_code == 503
    assert ask_for(owner).status_code == 303
    assert account.stripe_customer.stripe_id in stripe.objects


def test_a_recharge_under_way_is_not_called_unpaid_and_nobody_is_sent_to_pay_it(
    owner: Client, account: Account, stripe: FakeStripe
) -> None:
    recharge = Payment.objects.create(
        account=account, kind=Payment.Kind.RECHARGE, amount_cents=2500, livemode=False, payment_method="pm_1",
        requested_by=account.users.get(),
    )  # fmt: skip
    page = text(owner.get(FUNDS))
    assert "being charged to the saved card" in page
    assert f'href="{FUNDS}{recharge.pk}/"' in page
    page = text(owner.get(f"{FUNDS}{recharge.pk}/?left=1"))
    assert "We are waiting for the payment service" in page
    assert "nothing was charged" not in page
    assert f"{FUNDS}{recharge.pk}/pay/" not in page
    assert "Nothing was paid yet" not in text(owner.get("/billing/"))


def test_another_accounts_payment_is_not_found(owner: Client, account: Account, stripe: FakeStripe) -> None:
    ask_for(owner)
    stranger = people.owner_of(people.customer("charlie")[0])
    payment = Payment.objects.get(account=account)
    assert stranger.get(f"{FUNDS}{payment.pk}/").status_code == 404
    assert stranger.post(f"{FUNDS}{payment.pk}/pay/").status_code == 404


def test_without_stripe_the_page_says_whom_to_write_to(owner: Client, account: Account, settings: Settings) -> None:
    settings.STRIPE_SECRET_KEY = ""
    page = text(owner.get(FUNDS))
    assert "Payments are not set up here" in page
    assert settings.SUPPORT_EMAIL in page
    assert "Continue to payment" not in page
    assert ask_for(owner).status_code == 200
    assert not Payment.objects.filter(account=account).exists()


def test_a_closed_account_can_only_pay_what_it_owes(owner: Client, account: Account, stripe: FakeStripe) -> None:
    ask_for(owner)
    begun = Payment.objects.get(account=account)
    Account.objects.filter(pk=account.pk).update(disabled_at=datetime.now(UTC))

    assert "nothing can be added to it" in text(ask_for(owner))
    assert owner.post(f"{FUNDS}{begun.pk}/pay/").headers["Location"] == FUNDS
    assert len(stripe.made("checkout.session")) == 1

    factories.pay_back(account, 5)
    assert ask_for(owner).status_code == 303


def test_the_card_is_saved_only_on_request(owner: Client, account: Account, stripe: FakeStripe) -> None:
    assert "checked" not in text(owner.get(FUNDS))
    ask_for(owner, save_card="on")
    assert Payment.objects.get(account=account).save_card


def test_the_pages_ask_little(
    owner: Client, stripe: FakeStripe, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    ask_for(owner)
    with django_assert_max_num_queries(12):
        owner.get(FUNDS)
    with django_assert_max_num_queries(20):
        back_from(stripe, owner)
