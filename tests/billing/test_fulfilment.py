"""A payment is credited once and only if all of it is what was asked for; whatever else happens stays visible."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from accounts.models import Account
from billing import clock, ledger
from billing.models import LedgerAccount, Payment, Receipt, StripeCustomer, Transfer, Wallet
from billing.payments import fulfilment, stripe_api, stripe_objects, topups
from tests import factories, people
from tests.billing.fake_stripe import FakeStripe

State = Payment.State
USD = 10**12


def begun(stripe: FakeStripe, cents: int = 2500, *, save_card: bool = False, account: Account | None = None) -> Payment:
    """A payment whose Checkout page is open, of a new account unless told otherwise."""
    account = account or people.customer("payer")[0]
    by = account.users.get()
    form = uuid4()
    payment = topups.open_payment(
        form=form, account=account, amount_cents=cents, save_card=save_card, by=by, now=clock.now()
    )
    assert topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    return payment


def session_of(payment: Payment) -> str:
    assert payment.checkout_session
    return payment.checkout_session


def posted(payment: Payment) -> int:
    """What came into the wallet beside the welcome credit."""
    wallet = Wallet.objects.filter(pk=payment.account_id)
    transfers = Transfer.objects.filter(wallet__in=wallet, kind="topup")
    return sum(transfers.values_list("amount", flat=True))


@pytest.mark.django_db
def test_what_was_paid_is_credited_net_of_tax(stripe: FakeStripe) -> None:
    payment = begun(stripe, 2500)

    fulfilment.fulfil(stripe.pay(session_of(payment), tax=475))

    payment.refresh_from_db()
    assert (payment.state, payment.tax_cents, payment.total_cents) == (State.PAID, 475, 2975)
    assert payment.transfer is not None
    assert (payment.transfer.amount, payment.transfer.debit) == (25 * USD, LedgerAccount.SIMULATED_CLEARING)
    tax = Transfer.objects.get(cause=f"stripe:tax:{payment.payment_intent}")
    assert (tax.amount, tax.debit, tax.credit) == (4_750_000_000_000, "simulated_clearing", "tax_payable")
    lot = payment.transfer.lot
    assert (lot.kind, lot.remaining, lot.expires_at) == ("paid", 25 * USD, None)


@pytest.mark.django_db
def test_a_repeat_credits_nothing(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    for _ in range(3):
        fulfilment.fulfil(intent)
        fulfilment.refresh(payment)
    assert posted(payment) == 25 * USD
    assert Receipt.objects.get(payment=payment).total_cents == 2500


@pytest.mark.django_db
def test_what_was_credited_stays_so_when_its_customer_is_deleted_at_stripe(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    fulfilment.fulfil(intent)
    StripeCustomer.objects.filter(account=payment.account).delete()

    again = fulfilment.fulfil(intent)

    assert again is not None
    assert (again.state, again.error, posted(payment)) == ("paid", "", 25 * USD)


def test_twenty_at_once_credit_once(stripe: FakeStripe, committed: None) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment), tax=100)

    def one(number: int) -> None:
        try:
            if number % 2:
                fulfilment.fulfil(intent)
            else:
                fulfilment.refresh(payment)
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))

    assert posted(payment) == 25 * USD
    assert Receipt.objects.get(payment=payment).total_cents == 2600
    assert Transfer.objects.filter(cause=f"stripe:tax:{intent}").count() == 1


def test_many_who_look_at_once_ask_once(stripe: FakeStripe, committed: None) -> None:
    payment = begun(stripe)
    stripe.pay(session_of(payment), status="processing")
    asked, now = len(stripe.asked), clock.now()

    def one(_number: int) -> None:
        try:
            fulfilment.look(payment, now=now)
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))

    assert [path.split("/")[2] for _method, path, _params in stripe.asked[asked:]] == ["checkout", "payment_intents"]


def test_an_account_has_one_customer_at_stripe_whoever_makes_it(stripe: FakeStripe, committed: None) -> None:
    account, _email = people.customer("racer")
    by = account.users.get()

    def one(_number: int) -> None:
        try:
            payment = topups.open_payment(
                form=uuid4(), account=account, amount_cents=1000, save_card=False, by=by, now=clock.now()
            )
            topups.checkout_url(payment, return_url="https://flint.test/back")
        finally:
            connection.close()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, range(10)))

    customers = {session["customer"] for session in stripe.made("checkout.session")}
    assert customers == {StripeCustomer.objects.get(account=account).stripe_id}
    assert len(stripe.made("customer")) == 1


MISFITS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "less was paid": lambda intent, session: intent.update(amount_received=2499),
    "more was paid": lambda intent, session: intent.update(amount_received=2501),
    "another amount was asked": lambda intent, session: session.update(amount_subtotal=100, amount_total=100),
    "the parts are not the whole": lambda intent, session: session.update(amount_total=3000),
    "another currency": lambda intent, session: intent.update(currency="eur"),
    "another currency of the session": lambda intent, session: session.update(currency="jpy"),
    "another mode": lambda intent, session: intent.update(livemode=True),
    "another customer": lambda intent, session: intent.update(customer="cus_of_somebody"),
    "no customer": lambda intent, session: intent.update(customer=None),
    "another customer of the session": lambda intent, session: session.update(customer="cus_of_somebody"),
    "another payment's session": lambda intent, session: session.update(client_reference_id=str(uuid4())),
    "another intent of the session": lambda intent, session: session.update(payment_intent="pi_other"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_credits_nothing_and_says_why(
    stripe: FakeStripe, change: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    change(stripe.objects[intent], stripe.objects[session_of(payment)])

    fulfilment.fulfil(intent)

    payment.refresh_from_db()
    assert payment.error
    assert payment.state == State.OPEN
    assert posted(payment) == 0


@pytest.mark.django_db
def test_a_second_payment_of_the_same_is_seen(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    fulfilment.fulfil(stripe.pay(session_of(payment)))
    first = stripe.objects[session_of(payment)]["payment_intent"]
    stripe.objects["pi_again"] = {**stripe.objects[first], "id": "pi_again"}
    stripe.objects[session_of(payment)]["payment_intent"] = "pi_again"

    fulfilment.fulfil("pi_again")

    payment.refresh_from_db()
    assert payment.error == f"pi_again pays it as well as {first}."
    assert (payment.state, posted(payment)) == (State.PAID, 25 * USD)


@pytest.mark.django_db
def test_what_is_not_ours_is_left_alone_and_what_names_a_payment_that_is_not_there_is_an_error(
    stripe: FakeStripe,
) -> None:
    payment = begun(stripe)
    intent = stripe.pay(session_of(payment))
    stripe.objects[intent]["metadata"] = {}
    for metadata in ({}, {"payment": "order 17"}, {"payment": uuid4().hex}):
        stripe.objects[intent]["metadata"] = metadata
        assert fulfilment.fulfil(intent) is None
    stripe.objects[intent]["metadata"] = {"payment": str(uuid4())}
    with pytest.raises(fulfilment.UnknownPayment):
        fulfilment.fulfil(intent)
    assert posted(payment) == 0


@pytest.mark.django_db
def test_a_bank_that_takes_days_may_say_yes_or_no(stripe: FakeStripe) -> None:
    said_yes, said_no = begun(stripe), begun(stripe)
    for payment in (said_yes, said_no):
        fulfilment.fulfil(stripe.pay(session_of(payment), status="processing"))
        payment.refresh_from_db()
        assert (payment.state, posted(payment)) == (State.PROCESSING, 0)

    fulfilment.fulfil(stripe.attempt(session_of(said_yes), status="succeeded"))
    error = {"code": "payment_intent_payment_attempt_failed", "decline_code": None}
    status = {"status": "requires_payment_method", "last_payment_error": error}
    fulfilment.fulfil(stripe.attempt(session_of(said_no), **status))

    said_yes.refresh_from_db()
    said_no.refresh_from_db()
    assert (said_yes.state, posted(said_yes)) == (State.PAID, 25 * USD)
    assert (said_no.state, said_no.failure_code) == (State.FAILED, "payment_intent_payment_attempt_failed")


@pytest.mark.django_db
def test_a_bank_account_that_is_to_be_verified_has_not_said_no(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    fulfilment.fulfil(stripe.pay(session_of(payment), status="requires_action"))
    payment.refresh_from_db()
    assert (payment.state, posted(payment)) == (State.PROCESSING, 0)

    fulfilment.fulfil(stripe.attempt(session_of(payment), status="succeeded"))
    payment.refresh_from_db()
    assert (payment.state, posted(payment)) == (State.PAID, 25 * USD)


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
def test_one_that_cannot_be_written_down_keeps_no_other_from_being_asked_about(
    stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = begun(stripe), begun(stripe)
    for payment in (broken, other):
        stripe.pay(session_of(payment))
    credit = ledger.credit

    def too_much_for_one(*, account: Account, **fields: Any) -> Transfer:
        if account == broken.account:
            raise ledger.InvalidTransfer
        return credit(account=account, **fields)

    monkeypatch.setattr(ledger, "credit", too_much_for_one)
    fulfilment.sweep(now=clock.now() + timedelta(minutes=6))

    broken.refresh_from_db()
    assert (broken.state, posted(broken), broken.error) == (
        State.OPEN, 0, "It could not be written down: InvalidTransfer.",
    )  # fmt: skip
    assert posted(other) == 25 * USD


@pytest.mark.django_db
def test_a_declined_card_leaves_the_page_open_for_another(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    fulfilment.fulfil(stripe.attempt(session_of(payment), status="requires_payment_method", last_payment_error=error))
    payment.refresh_from_db()
    assert (payment.state, payment.failure_code) == (State.OPEN, "insufficient_funds")

    fulfilment.fulfil(stripe.pay(session_of(payment)))
    payment.refresh_from_db()
    assert (payment.state, payment.failure_code) == (State.PAID, "")


@pytest.mark.django_db
def test_a_payment_made_while_we_ask_is_not_taken_for_one_that_failed(
    stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = begun(stripe)
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    intent = stripe.attempt(session_of(payment), status="requires_payment_method", last_payment_error=error)
    ask = stripe_api.checkout

    def paid_in_between(session_id: str) -> stripe_objects.Checkout:
        stripe.pay(session_id)
        return ask(session_id)

    monkeypatch.setattr(stripe_api, "checkout", paid_in_between)
    fulfilment.fulfil(intent)
    payment.refresh_from_db()
    assert (payment.state, posted(payment)) == (State.PAID, 25 * USD)


@pytest.mark.django_db
def test_a_bank_account_is_no_card(stripe: FakeStripe) -> None:
    """Stripe leaves out what does not exist: the card of another way to pay, the code of an error that has none."""
    payment = begun(stripe, save_card=True)
    error = {"type": "invalid_request_error", "code": "payment_intent_payment_attempt_failed"}
    intent = stripe.attempt(session_of(payment), status="requires_payment_method", last_payment_error=error)
    fulfilment.fulfil(intent)
    payment.refresh_from_db()
    assert payment.failure_code == "payment_intent_payment_attempt_failed"

    stripe.pay(session_of(payment))
    details = {"type": "us_bank_account", "us_bank_account": {"last4": "6789"}}
    stripe.objects[intent]["latest_charge"]["payment_method_details"] = details
    fulfilment.fulfil(intent)
    assert posted(payment) == 25 * USD
    assert StripeCustomer.objects.get(account=payment.account).payment_method == ""


@pytest.mark.django_db
def test_a_page_that_expired_unpaid_ends_the_payment(stripe: FakeStripe) -> None:
    payment = begun(stripe)
    stripe.objects[session_of(payment)]["status"] = "expired"
    assert fulfilment.refresh(payment).state == State.CANCELED


@pytest.mark.django_db
def test_a_crash_before_the_session_is_noted_loses_no_payment(stripe: FakeStripe) -> None:
    """Stripe made the page, we died; the customer is never sent there, or pays by the link that came first."""
    payment = begun(stripe)
    session = session_of(payment)
    Payment.objects.filter(pk=payment.pk).update(checkout_session=None)

    payment.refresh_from_db()
    topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    assert payment.checkout_session == session
    assert len(stripe.made("checkout.session")) == 1

    Payment.objects.filter(pk=payment.pk).update(checkout_session=None)
    fulfilment.fulfil(stripe.pay(session))
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
@pytest.mark.parametrize("agreed", [True, False])
def test_a_card_is_kept_only_with_consent(stripe: FakeStripe, agreed: bool) -> None:
    payment = begun(stripe, save_card=agreed)
    fulfilment.fulfil(stripe.pay(session_of(payment)))

    customer = StripeCustomer.objects.get(account=payment.account)
    assert (customer.card_last4, customer.consented_by) == (("4242", payment.requested_by) if agreed else ("", None))
    (opened,) = [params for method, path, params in stripe.asked if (method, path[-9:]) == ("POST", "/sessions")]
    assert ("payment_intent_data[setup_future_usage]" in opened) is agreed


@pytest.mark.django_db
def test_a_form_sent_twice_is_one_payment(stripe: FakeStripe) -> None:
    account, _email = people.customer("twice")
    asked: dict[str, Any] = {"account": account, "save_card": False, "by": account.users.get(), "now": clock.now()}
    form = uuid4()
    first = topups.open_payment(form=form, amount_cents=1000, **asked)
    assert topups.open_payment(form=form, amount_cents=1000, **asked) == first
    assert topups.open_payment(form=form, amount_cents=2000, **asked) != first
    other, _email = people.customer("other")
    assert topups.open_payment(form=form, amount_cents=1000, **{**asked, "account": other}) != first


@pytest.mark.django_db
@pytest.mark.parametrize("cents", [499, 500_001, 0, -1000])
def test_an_amount_out_of_bounds_is_no_payment(stripe: FakeStripe, cents: int) -> None:
    account = factories.account()
    with pytest.raises(topups.InvalidAmount):
        topups.open_payment(
            form=uuid4(), account=account, amount_cents=cents, save_card=False, by=factories.user(), now=clock.now()
        )
    assert not Payment.objects.filter(account=account).exists()


@pytest.mark.django_db
def test_the_activity_tells_of_funds_and_of_the_card(stripe: FakeStripe) -> None:
    payment = begun(stripe, save_card=True)
    fulfilment.fulfil(stripe.pay(session_of(payment)))
    fulfilment.refresh(payment)
    page = people.owner_of(payment.account).get("/activity/").content.decode()
    assert page.count("added funds: $25.00") == 1
    assert page.count("agreed that a card is saved: visa ending in 4242") == 1
