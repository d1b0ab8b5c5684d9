"""kill -9 at every step of a top-up: whatever it was killed at, there is one customer, one session, one credit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import stripe as stripe_package
from django.conf import settings as django_settings
from django.db import connection
from pytest_django import Settings

from accounts.models import Account
from billing import clock
from billing.models import Payment, Receipt, StripeCustomer, StripeEvent
from billing.payments import inbox, topups
from tests import people
from tests.billing import dying, processes
from tests.billing.stage import assert_books_hold
from tests.billing.test_fulfilment import USD, posted
from tests.stripe_simulator.process import KEY, StripeSimulator

SECRET = "whsec_of_the_kills_0123456789"
CENTS = 2500


@pytest.fixture
def simulator(tmp_path: Path, settings: Settings) -> Iterator[StripeSimulator]:
    simulator = StripeSimulator(tmp_path / "stripe.sqlite3", secret=SECRET)
    _use(settings, simulator.url)
    yield simulator
    simulator.stop()


def _use(chosen: Any, url: str) -> None:
    chosen.STRIPE_SECRET_KEY, chosen.STRIPE_API_BASE, chosen.STRIPE_WEBHOOK_SECRETS = KEY, url, [SECRET]


def top_up(url: str, account_id: int, form: UUID) -> None:
    """All that we do for one top-up, with what the customer and Stripe do in between: it may be begun again."""
    _use(django_settings, url)
    account = Account.objects.get(pk=account_id)
    payment = Payment.objects.filter(pk=form).first()
    if payment is None or payment.checkout_session is None:  # Else the customer is on Stripe's page.
        payment = topups.open_payment(
            form=form, account=account, amount_cents=CENTS, save_card=True, by=account.users.get(), now=clock.now()
        )
        topups.checkout_url(payment, return_url="https://flint.test/back")
        payment.refresh_from_db()
    _pay(url, str(payment.checkout_session))
    for body in _messages(url, str(payment.checkout_session)):
        header = stripe_package.WebhookSignature.generate_signature_header(body, SECRET)
        event = inbox.receive(body.encode(), signature=header, livemode=False, request_id="", now=clock.now())
        inbox.work(event)


def _simulator(url: str) -> StripeSimulator:
    """To ask one that runs already."""
    simulator = object.__new__(StripeSimulator)
    simulator.key, simulator.port = KEY, int(url.rpartition(":")[2])
    return simulator


def _pay(url: str, session: str) -> None:
    _simulator(url).ask("POST", f"/c/pay/{session}/pay", {})  # 410 where it is paid already.


def _messages(url: str, session: str) -> list[str]:
    query = "/v1/events?type=checkout.session.completed&limit=100"
    _, text, _ = _simulator(url).ask("GET", query, Authorization=f"Bearer {KEY}")
    found = [event for event in json.loads(text)["data"] if event["data"]["object"]["id"] == session]
    assert len(found) == 1
    return [json.dumps(found[0])]


def run(simulator: StripeSimulator, account: Account, form: UUID, last: int | None) -> list[str] | None:
    """The steps that were taken, or None if it was killed."""
    answers = processes.context().Queue()
    arguments = (simulator.url, account.pk, form)
    with processes.running(dying.walk, top_up, arguments, last, answers) as process:
        if last is None:
            steps: list[str] = answers.get(timeout=processes.SECONDS)
            return steps
        process.join(processes.SECONDS)
        assert process.exitcode == -9
    return None


def killed_and_done_again(simulator: StripeSimulator, last: int) -> tuple[int, Account]:
    """The customer sends the form again, Stripe its message, and the worker's lease runs out."""
    try:
        account, _email = people.customer("payer")
        form = uuid4()
        run(simulator, account, form, last)
        lost = StripeEvent.objects.filter(payload__contains=f'"{form}"', processed_at=None)
        lost.update(next_attempt_at=clock.now() - timedelta(seconds=1))
        top_up(simulator.url, account.pk, form)
        return last, account
    finally:
        connection.close()


@pytest.mark.timeout(240)
def test_a_top_up_killed_at_any_step_ends_with_one_customer_one_session_one_credit(
    simulator: StripeSimulator, committed: None
) -> None:
    whole, _email = people.customer("payer")
    steps = run(simulator, whole, uuid4(), None)
    assert steps is not None
    for words in ("POST", "/v1/customers", "/v1/checkout/sessions", "billing_stripeevent", "billing_transfer"):
        assert any(words in step for step in steps), words  # It dies where it matters.

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda last: killed_and_done_again(simulator, last), range(len(steps))))

    state = json.loads(simulator.ask("GET", "/control/state")[1])
    for last, account in done:
        at = steps[last]
        made = [each["id"] for each in state["customer"] if each["metadata"]["account"] == str(account.pk)]
        assert made == [StripeCustomer.objects.get(account=account).stripe_id], at
        assert len([each for each in state["checkout.session"] if each["customer"] == made[0]]) == 1, at
        payment = Payment.objects.get(account=account)
        assert (payment.state, posted(payment)) == (Payment.State.PAID, CENTS * USD // 100), at
        assert Receipt.objects.filter(payment=payment).count() == 1, at
        assert not StripeEvent.objects.filter(payload__contains=str(payment.pk), processed_at=None).exists(), at
    assert_books_hold()
