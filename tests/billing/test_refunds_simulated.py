"""Refunds over the Stripe simulator's own process, with its messages, a site that takes them and a worker."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.conf import settings
from pytest_django import Settings

from billing import clock, money
from billing.models import Payment, Refund, StripeEvent, Transfer
from billing.payments import refund_room, refunds, topups
from tests import factories, people
from tests.billing.stage import assert_books_hold
from tests.billing.test_refunds import paid_left, staff, start
from tests.billing.test_refunds_admin import fields, page_of, text
from tests.stack import WebProcess, until, worker
from tests.stripe_simulator.process import StripeSimulator

SECRET = "whsec_of_the_refund_tests"
pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def running(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSimulator]:
    """A site and a worker that know this Stripe, and ring for each other only."""
    folder = tmp_path_factory.mktemp("refunding")
    simulator = StripeSimulator(folder / "stripe.sqlite3", secret=SECRET)
    environment = {
        "STRIPE_SECRET_KEY": simulator.key,
        "STRIPE_API_BASE": simulator.url,
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        "CELERY_BROKER_URL": urlsplit(settings.CELERY_BROKER_URL)._replace(path="/9").geturl(),
    }
    web = WebProcess(folder / "web.log", **environment)
    try:
        with worker(folder / "worker.log", **environment):
            web.wait_until_ready()
            simulator.control("webhook", url=f"{web.url}/webhooks/stripe/", secret=SECRET)
            yield simulator
    finally:
        web.stop()
        simulator.stop()


@pytest.fixture
def simulator(running: StripeSimulator, settings: Settings) -> StripeSimulator:
    settings.STRIPE_SECRET_KEY = running.key
    settings.STRIPE_API_BASE = running.url
    return running


def paid(simulator: StripeSimulator, cents: int = 2500, *, milli_percent: int = 0) -> Payment:
    """A payment that was made on the simulator's page and credited by its messages."""
    account, _email = people.customer("payer")
    by = account.users.get()
    payment = topups.open_payment(
        form=uuid4(), account=account, amount_cents=cents, save_card=False, by=by, now=clock.now()
    )
    assert topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    simulator.pays(str(payment.checkout_session))
    until(lambda: Payment.objects.filter(pk=payment.pk, state="paid").exists(), 20)
    payment.refresh_from_db()
    return payment


def refunds_of(payment: Payment) -> list[tuple[int, str, str]]:
    found = Refund.objects.filter(payment=payment).order_by("created_at", "id")
    return list(found.values_list("amount_cents", "state", "source"))


def assert_clearing_is_what_stripe_says(simulator: StripeSimulator, payment: Payment) -> None:
    """In cents: what Stripe's balance has of the payment, and what we think it has."""
    related = {payment.charge, *Refund.objects.filter(payment=payment).values_list("stripe_id", flat=True)}
    moved = simulator.client().v1.balance_transactions.list({"limit": 100}).auto_paging_iter()
    at_stripe = sum(each.amount for each in moved if each.source in related)
    ours = 0
    for part in (payment.payment_intent, *related):
        for transfer in Transfer.objects.filter(cause__contains=str(part)):
            ours += transfer.amount if transfer.debit == "simulated_clearing" else -transfer.amount
    assert ours == money.from_cents(at_stripe)


def test_staff_and_the_dashboard_refund_and_a_bank_sends_back(simulator: StripeSimulator) -> None:
    payment, admin = paid(simulator), people.superuser()

    answer = admin.post(page_of(payment), fields(admin, page_of(payment), amount="10"), follow=True)
    assert "$10.00 is on its way to the card" in text(answer)
    for _ in range(2):
        simulator.control("refund", charge=str(payment.charge), amount="300")
    until(lambda: len(refunds_of(payment)) == 3, 20)
    assert paid_left(payment) == 900

    last = Refund.objects.filter(payment=payment).latest("posted_at")
    simulator.control("fail-refund", refund=str(last.stripe_id))
    until(lambda: Refund.objects.filter(pk=last.pk, state="failed").exists(), 20)

    assert refunds_of(payment) == [
        (1000, "succeeded", "admin"),
        (300, "succeeded", "stripe"),
        (300, "failed", "stripe"),
    ]
    assert paid_left(payment) == 1200
    assert refund_room.room(Payment.objects.get(pk=payment.pk), now=clock.now()).most == 1200
    assert_clearing_is_what_stripe_says(simulator, payment)
    assert_books_hold()


def test_a_dashboard_refund_of_what_was_spent_leaves_debt(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    factories.debit(payment.account, 20 * money.PICO_PER_USD)
    simulator.control("refund", charge=str(payment.charge))
    until(lambda: refunds_of(payment) == [(2500, "succeeded", "stripe")], 20)
    assert paid_left(payment) == -2000
    assert_clearing_is_what_stripe_says(simulator, payment)
    assert_books_hold()


@pytest.mark.parametrize("kind", ["lose_answer", "error_after_commit", "rate_limit"])
def test_an_answer_that_was_lost_is_asked_for_again(simulator: StripeSimulator, kind: str) -> None:
    payment, by = paid(simulator), staff()
    simulator.control("calls", kind=kind, count="2", path="POST /v1/refunds")  # The client tries twice.
    refund = start(payment, 1000, by=by)
    simulator.control("calls", kind=kind, count="0", path="POST /v1/refunds")

    refunds.go_on(Refund.objects.get(pk=refund.pk))

    assert refunds_of(payment) == [(1000, "succeeded", "admin")]
    assert len(simulator.client().v1.refunds.list({"payment_intent": str(payment.payment_intent)}).data) == 1
    assert paid_left(payment) == 1500
    assert_clearing_is_what_stripe_says(simulator, payment)


def test_a_disputed_payment_is_refused_by_stripe_in_words(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    simulator.control("dispute", charge=str(payment.charge), inquiry="yes")
    simulator.control("withdraw", dispute=_dispute_of(simulator, payment))
    until(lambda: Payment.objects.filter(pk=payment.pk, returned_cents=2500).exists(), 20)
    found = refund_room.room(Payment.objects.get(pk=payment.pk), now=clock.now())
    assert (found.disputed, found.most) == (2500, 0)


def _dispute_of(simulator: StripeSimulator, payment: Payment) -> str:
    return simulator.client().v1.disputes.list({"charge": str(payment.charge)}).data[0].id


def test_every_message_about_all_this_was_worked_on_without_a_fault(simulator: StripeSimulator) -> None:
    told = [event.id for event in simulator.client().v1.events.list({"limit": 100}).data]
    rows = StripeEvent.objects.filter(pk__in=told)
    until(lambda: rows.count() == len(told) and not rows.filter(processed_at=None).exists(), 20)
    assert not rows.exclude(error="").exists()
    assert_books_hold()
