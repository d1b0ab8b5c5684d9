"""Disputes as they come: from the simulator's control page by signed messages over sockets, worked on by a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.conf import settings as configured
from pytest_django import Settings

from billing import clock, money
from billing.models import Dispute, DisputeMail, DisputeMovement, Payment, StripeEvent, Transfer
from billing.payments import flags, topups
from tests import factories, people
from tests.billing import stage
from tests.stack import WebProcess, until, worker
from tests.stripe_simulator.process import StripeSimulator

pytestmark = pytest.mark.usefixtures("committed")
SECRET = "whsec_of_the_tests_of_disputes"
PAID = 2500
PATIENCE = 30.0


@pytest.fixture(scope="module")
def simulator(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSimulator]:
    """With a site that it tells, and a worker."""
    simulator = StripeSimulator(tmp_path_factory.mktemp("stripe") / "stripe.sqlite3", secret=SECRET)
    environment = {
        "STRIPE_SECRET_KEY": simulator.key,
        "STRIPE_API_BASE": simulator.url,
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        "CELERY_BROKER_URL": urlsplit(configured.CELERY_BROKER_URL)._replace(path="/10").geturl(),
    }
    logs = tmp_path_factory.mktemp("disputes")
    web = WebProcess(logs / "web.log", **environment)
    try:
        with worker(logs / "worker.log", **environment):
            web.wait_until_ready()
            simulator.control("webhook", url=f"{web.url}/webhooks/stripe/", secret=SECRET)
            yield simulator
    finally:
        web.stop()
        simulator.stop()


@pytest.fixture(autouse=True)
def asks_the_simulator(simulator: StripeSimulator, settings: Settings) -> None:
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = simulator.key, simulator.url


def begun(cents: int = PAID) -> Payment:
    account, _ = people.customer("payer")
    by = account.users.get()
    payment = topups.open_payment(
        form=uuid4(), account=account, amount_cents=cents, save_card=False, by=by, now=clock.now()
    )
    topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    return payment


def paid(simulator: StripeSimulator) -> Payment:
    payment = begun()
    simulator.pays(str(payment.checkout_session))
    return when(payment, state="paid")


def when(payment: Payment, **facts: Any) -> Payment:
    until(lambda: Payment.objects.filter(pk=payment.pk, **facts).exists(), PATIENCE)
    payment.refresh_from_db()
    return payment


def opened(simulator: StripeSimulator, payment: Payment, **fields: str) -> str:
    return str(simulator.control("dispute", charge=str(payment.charge), **fields)["id"])


def told(dispute: str, status: str, *, movements: int) -> Dispute:
    """As soon as the worker has written and posted so much."""

    def written() -> Dispute | None:
        found = Dispute.objects.filter(stripe_id=dispute, status=status).first()
        return found if found and found.movements.count() == movements else None

    return until(written, PATIENCE)


def balance(payment: Payment) -> tuple[int, int]:
    """Cents, and cents of debt."""
    wallet = stage.wallet_of(payment.account)
    return wallet.posted // money.PICO_PER_CENT, wallet.debt // money.PICO_PER_CENT


def assert_equal_at_stripe(simulator: StripeSimulator, payment: Payment, dispute: str) -> None:
    """What we posted is what moved in the balance there, but for the fees; each message was worked on once, well."""
    movements = simulator.client().v1.disputes.retrieve(dispute).balance_transactions
    assert {row.stripe_id: row.cents for row in DisputeMovement.objects.filter(dispute__stripe_id=dispute)} == {
        movement.id: movement.amount for movement in movements
    }
    posted = Transfer.objects.filter(cause__startswith=f"stripe:dp:{dispute}:")
    signed = (one.amount if one.credit == "wallet" else -one.amount for one in posted)
    assert sum(signed) == money.from_cents(sum(movement.amount for movement in movements))
    payment.refresh_from_db()
    assert payment.returned_cents == -sum(movement.amount for movement in movements)
    assert not StripeEvent.objects.filter(payload__contains=dispute).exclude(error="").exists()
    stage.assert_books_hold()


@pytest.mark.parametrize(
    ("end", "status", "movements", "left"), [("win", "won", 2, (PAID, 0)), ("lose", "lost", 1, (0, 0))]
)
def test_a_dispute_takes_the_money_until_it_is_won(
    simulator: StripeSimulator, end: str, status: str, movements: int, left: tuple[int, int]
) -> None:
    payment = paid(simulator)

    dispute = opened(simulator, payment)
    row = told(dispute, "needs_response", movements=1)
    assert balance(payment) == (0, 0)
    assert flags.is_flagged(payment.account_id)
    assert row.due_by is not None

    simulator.control(end, dispute=dispute)
    told(dispute, status, movements=movements)
    assert balance(payment) == left
    assert flags.is_flagged(payment.account_id), "Until staff clear it."
    assert [mail.about for mail in DisputeMail.objects.filter(dispute=row)] == ["dispute"]
    assert_equal_at_stripe(simulator, payment, dispute)


def test_an_inquiry_moves_nothing_until_it_becomes_a_dispute(simulator: StripeSimulator) -> None:
    payment = paid(simulator)

    dispute = opened(simulator, payment, inquiry="yes")
    row = told(dispute, "warning_needs_response", movements=0)
    assert (balance(payment), flags.is_flagged(payment.account_id)) == ((PAID, 0), False)

    simulator.control("withdraw", dispute=dispute)
    told(dispute, "needs_response", movements=1)
    assert (balance(payment), flags.is_flagged(payment.account_id)) == ((0, 0), True)
    assert [mail.about for mail in DisputeMail.objects.filter(dispute=row).order_by("pk")] == ["inquiry", "dispute"]
    assert_equal_at_stripe(simulator, payment, dispute)


def test_an_inquiry_that_is_answered_ends_with_nothing(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    dispute = opened(simulator, payment, inquiry="yes")
    simulator.control("win", dispute=dispute)

    told(dispute, "warning_closed", movements=0)

    assert (balance(payment), flags.is_flagged(payment.account_id)) == ((PAID, 0), False)


def test_a_warning_of_fraud_flags_and_moves_nothing(simulator: StripeSimulator) -> None:
    payment = paid(simulator)

    simulator.control("fraud-warning", charge=str(payment.charge))

    until(lambda: flags.is_flagged(payment.account_id), PATIENCE)
    assert balance(payment) == (PAID, 0)


def test_what_is_left_after_a_refund_is_disputed_and_what_was_spent_is_owed(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    factories.debit(payment.account, money.from_cents(2000))
    simulator.control("refund", charge=str(payment.charge), amount="300")
    when(payment, returned_cents=300)

    dispute = opened(simulator, payment)
    told(dispute, "needs_response", movements=1)
    assert balance(payment) == (-2000, 2000)
    simulator.control("lose", dispute=dispute)
    told(dispute, "lost", movements=1)

    factories.credit(payment.account, money.from_cents(3000))
    assert balance(payment) == (1000, 0)


@pytest.mark.parametrize("kind", ["duplicate", "reorder", "delay", "drop"])
def test_messages_that_go_astray_end_in_the_same_books(simulator: StripeSimulator, kind: str) -> None:
    """Of the four messages the first three go wrong, so the last one, or what is late, makes up for them."""
    payment = paid(simulator)
    simulator.control("events", kind=kind, count="3", seconds="1")

    dispute = opened(simulator, payment)
    simulator.control("win", dispute=dispute)

    told(dispute, "won", movements=2)
    until(lambda: _all_told(simulator, dispute), PATIENCE)
    assert balance(payment) == (PAID, 0)
    assert_equal_at_stripe(simulator, payment, dispute)


def _all_told(simulator: StripeSimulator, dispute: str) -> bool:
    """Everything that was not dropped is here and done."""
    _, body, _ = simulator.ask("GET", "/control/state", Accept="application/json")
    state = json.loads(body)
    about = {event["id"] for event in state["event"] if event["data"]["object"]["id"] == dispute}
    coming = {row["event"] for row in state["deliveries"] if row["event"] in about and row["state"] != "dropped"}
    done = StripeEvent.objects.filter(pk__in=coming, processed_at__isnull=False).count()
    return done == len(coming) and not any(row["state"] == "pending" for row in state["deliveries"])


@pytest.mark.parametrize(("outcome", "state", "left"), [("succeed", "paid", PAID), ("fail", "failed", 0)])
def test_a_bank_that_takes_days_credits_nothing_until_it_has_paid(
    simulator: StripeSimulator, outcome: str, state: str, left: int
) -> None:
    payment = begun()
    simulator.pays(str(payment.checkout_session), "later", outcome="control")
    when(payment, state="processing")
    assert not Transfer.objects.filter(wallet=payment.account_id).exists()

    simulator.control("settle", payment_intent=str(payment.payment_intent), outcome=outcome)

    when(payment, state=state)
    assert sum(Transfer.objects.filter(wallet=payment.account_id).values_list("amount", flat=True)) == (
        money.from_cents(left)
    )
    assert (payment.transfer is not None, payment.error) == (outcome == "succeed", "")
    if outcome == "succeed":
        dispute = opened(simulator, payment)
        told(dispute, "needs_response", movements=1)
        assert balance(payment) == (0, 0)
