"""What Stripe knows and we were never told is found by reading its lists, once, whoever reads and is killed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import stripe
from celery.exceptions import Ignore
from pytest_django import Settings

from billing import clock, ledger, tasks
from billing.models import BalanceTransaction, LedgerAccount, Payment, StripeCursor, StripeEvent, Transfer
from billing.payments import fulfilment, inbox, movements, reconcile, stripe_lists, topups
from billing.payments.reconcile import BEGINNING, Listing, Outcome
from tests import people
from tests.billing import processes, stage
from tests.billing.test_fulfilment import USD, posted, session_of
from tests.stack import until
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_after_payment import paid as paid_to_another_app

FEE = 103  # Of 25.00 USD: 2.9 % and 30 cents.


@pytest.fixture
def simulator(simulator: StripeSimulator) -> StripeSimulator:
    """A Stripe in which nothing has happened, and which never tells what happens."""
    simulator.control("forget")
    return simulator


def paid(simulator: StripeSimulator, cents: int = 2500) -> Payment:
    """A payment of a new account, of which we know only that its Checkout page was opened."""
    account, _email = people.customer("payer")
    payment = topups.open_payment(
        form=uuid4(), account=account, amount_cents=cents, save_card=False, by=account.users.get(), now=clock.now()
    )
    assert topups.checkout_url(payment, return_url="https://flint.test/back")
    payment.refresh_from_db()
    simulator.pays(session_of(payment))
    reconcile.reach_back(to=BEGINNING)  # Whatever other tests have read of another Stripe.
    return payment


def run(**fields: Any) -> Outcome:
    """A run of the reconciler, and of the worker of events after it."""
    outcome = reconcile.run(now=clock.now(), tell=lambda _: None, **fields)
    for event_id in StripeEvent.objects.filter(source="reconciler", processed_at=None).values_list("pk", flat=True):
        inbox.work(event_id)
    return outcome


def movement_of(payment: Payment) -> BalanceTransaction:
    payment.refresh_from_db()
    return BalanceTransaction.objects.get(payment_intent=payment.payment_intent, kind="charge")


def fees_of(payment: Payment) -> list[int]:
    """In cents."""
    fees = Transfer.objects.filter(cause=f"stripe:fee:{movement_of(payment).pk}")
    return [transfer.amount // (USD // 100) for transfer in fees]


@pytest.mark.django_db
@pytest.mark.parametrize("alone", [Listing.EVENTS, Listing.PAYMENT_INTENTS, Listing.BALANCE_TRANSACTIONS])
def test_a_payment_nobody_told_us_of_is_credited_by_each_list_alone(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch, alone: Listing
) -> None:
    only = [reading for reading in reconcile.READINGS if reading.listing == alone]
    monkeypatch.setattr(reconcile, "READINGS", only)
    payment = paid(simulator)
    for _ in range(3):
        assert run().errors == {}
        assert posted(payment) == 25 * USD
    payment.refresh_from_db()
    assert payment.state == Payment.State.PAID


@pytest.mark.django_db
def test_what_a_dropped_webhook_did_not_tell_is_repaired_once(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    for _ in range(3):
        assert run() == Outcome()
    assert posted(payment) == 25 * USD
    assert fees_of(payment) == [FEE]
    told = {"type": "payment_intent.succeeded", "payload__contains": str(payment.pk)}
    found = StripeEvent.objects.filter(source="reconciler", **told)
    assert [event.processed_at is None for event in found] == [False]


@pytest.mark.django_db
def test_an_event_that_was_delivered_stays_as_it_was_delivered(simulator: StripeSimulator) -> None:
    paid(simulator)
    listed = simulator.client().v1.events.list({"type": "payment_intent.succeeded"}).data[0]
    now = clock.now()
    kept = StripeEvent.objects.create(
        id=listed.id, type=listed.type, created=now, livemode=False, payload="{}", source="webhook", processed_at=now,
        next_attempt_at=None,
    )  # fmt: skip
    run()
    kept.refresh_from_db()
    assert (kept.source, kept.payload, kept.attempts) == ("webhook", "{}", 0)


@pytest.mark.django_db
def test_a_payment_older_than_the_events_is_found_among_the_objects(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    simulator.control("days", days="40")
    assert run() == Outcome()
    assert not StripeEvent.objects.filter(source="reconciler", payload__contains=str(payment.pk)).exists()
    assert posted(payment) == 25 * USD
    assert fees_of(payment) == [FEE]


@pytest.mark.django_db
def test_a_reading_begins_where_the_last_one_ended(simulator: StripeSimulator) -> None:
    paid(simulator)
    simulator.control("days", days="2")
    begun_at = clock.now()
    assert reconcile.run(now=begun_at, tell=lambda _: None) == Outcome()
    cursor = StripeCursor.objects.get(list=Listing.PAYMENT_INTENTS, livemode=False)
    assert (cursor.since, cursor.until, cursor.after) == (begun_at - reconcile.OVERLAP, None, "")

    lines: list[str] = []
    late_id = paid_to_another_app(simulator, simulator.client()).id
    reconcile.run(now=clock.now(), tell=lines.append)
    assert next(line for line in lines if line.startswith("payment_intents: ")).startswith("payment_intents: 1 from")
    assert BalanceTransaction.objects.filter(payment_intent=late_id).exists()

    reconcile.reach_back(to=clock.now() - reconcile.DEEP)
    lines.clear()
    reconcile.run(now=clock.now(), tell=lines.append)
    assert next(line for line in lines if line.startswith("payment_intents: ")).startswith("payment_intents: 2 from")


@pytest.mark.django_db
def test_more_than_a_page_is_read_over_several_runs(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    client = simulator.client()
    for _ in range(stripe_lists.PAGE + 3):
        client.v1.payment_intents.create({"amount": 100, "currency": "usd"})
    first = run(seconds=0)
    assert (first.is_complete, first.errors) == (False, {})
    assert posted(payment) == 25 * USD, "It is the oldest, but its balance transaction is the only one."
    cursor = StripeCursor.objects.get(list=Listing.PAYMENT_INTENTS, livemode=False)
    assert cursor.until is not None
    assert cursor.after == client.v1.payment_intents.list({"limit": 100}).data[-1].id
    assert run(seconds=0).is_complete
    ours = client.v1.events.list({"type": "payment_intent.*", "limit": 100})
    assert {event.id for event in ours.auto_paging_iter()} <= set(StripeEvent.objects.values_list("pk", flat=True))


@pytest.mark.django_db
def test_what_stripe_does_not_answer_is_left_for_the_next_run(simulator: StripeSimulator) -> None:
    StripeCursor.objects.all().delete()  # As before the first run.
    payment = paid(simulator)
    simulator.control("calls", kind="rate_limit", path="GET /v1/events")
    assert run().errors == {"events": "Unavailable: RateLimitError"}
    cursor = StripeCursor.objects.get(list=Listing.EVENTS, livemode=False)
    assert (cursor.error, cursor.read_at, cursor.since) == ("Unavailable: RateLimitError", None, BEGINNING)
    assert posted(payment) == 25 * USD, "The other lists are read."
    assert run() == Outcome()
    cursor.refresh_from_db()
    assert cursor.error == ""
    assert cursor.read_at


@pytest.mark.django_db
def test_a_run_that_was_not_answered_does_not_count_as_done(simulator: StripeSimulator) -> None:
    paid(simulator)
    simulator.control("calls", kind="rate_limit", path="GET /v1/events")
    with pytest.raises(Ignore):
        tasks.reconcile_stripe()
    tasks.reconcile_stripe()
    tasks.reconcile_stripe_deeply()
    assert StripeCursor.objects.get(list=Listing.EVENTS, livemode=False).since < clock.now() - timedelta(days=34)


@pytest.mark.django_db
def test_a_page_that_cannot_be_worked_on_is_read_again(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    simulator.control("calls", kind="rate_limit", path="GET /v1/payment_intents/")
    outcome = reconcile.run(now=clock.now(), tell=lambda _: None)
    assert outcome.errors == {"payment_intents": "Unavailable: RateLimitError"}
    assert StripeCursor.objects.get(list=Listing.PAYMENT_INTENTS, livemode=False).since == BEGINNING
    run()
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
def test_a_place_in_a_list_that_is_gone_begins_the_reading_again(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    StripeCursor.objects.filter(list=Listing.EVENTS, livemode=False).update(until=clock.now(), after="evt_gone")
    assert run().errors == {"events": "Refused: resource_missing"}
    assert run() == Outcome()
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
def test_without_a_key_nothing_is_asked(simulator: StripeSimulator, settings: Settings) -> None:
    settings.STRIPE_SECRET_KEY = ""
    assert run() == Outcome()


@pytest.mark.django_db
def test_one_object_that_fits_nothing_does_not_stop_the_others(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    client = simulator.client()
    lost = paid_to_another_app(simulator, client, payment_intent_data={"metadata": {"payment": str(uuid4())}})
    assert run() == Outcome()
    assert posted(payment) == 25 * USD
    movement = BalanceTransaction.objects.get(payment_intent=lost.id)
    assert (movement.foreign, movement.posted_at is None) == (False, False), "It names a payment, which is missed here."


@pytest.mark.django_db
@pytest.mark.parametrize("alone", [Listing.EVENTS, Listing.REFUNDS, Listing.BALANCE_TRANSACTIONS])
def test_a_refund_at_stripe_and_its_failure_are_found_by_each_list_alone(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch, alone: Listing
) -> None:
    payment = paid(simulator)
    fulfilment.refresh(payment)
    monkeypatch.setattr(reconcile, "READINGS", [each for each in reconcile.READINGS if each.listing == alone])
    refund = simulator.control("refund", charge=charge_of(simulator, payment), amount="700")
    for _ in range(2):
        assert run() == Outcome()
        assert came_in(payment) == 18 * USD
    simulator.control("fail-refund", refund=refund["id"])
    for _ in range(2):
        assert run() == Outcome()
        assert came_in(payment) == 25 * USD
    stage.assert_books_hold()


@pytest.mark.django_db
@pytest.mark.parametrize("alone", [Listing.EVENTS, Listing.DISPUTES, Listing.BALANCE_TRANSACTIONS])
def test_a_dispute_and_its_end_are_found_by_each_list_alone(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch, alone: Listing
) -> None:
    payment = paid(simulator)
    fulfilment.refresh(payment)
    monkeypatch.setattr(reconcile, "READINGS", [each for each in reconcile.READINGS if each.listing == alone])
    dispute = simulator.control("dispute", charge=charge_of(simulator, payment))
    for _ in range(2):
        assert run() == Outcome()
        assert came_in(payment) == 0
    simulator.control("win", dispute=dispute["id"])
    for _ in range(2):
        assert run() == Outcome()
        assert came_in(payment) == 25 * USD
    stage.assert_books_hold()


@pytest.mark.django_db
def test_what_is_known_to_its_end_is_not_asked_for_again(
    simulator: StripeSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    payment = paid(simulator)
    simulator.control("refund", charge=charge_of(simulator, payment), amount="700")
    simulator.control("dispute", charge=charge_of(simulator, payment))
    run()
    assert came_in(payment) == 0
    reconcile.reach_back(to=BEGINNING)
    caplog.clear()
    run()
    asked = [record.getMessage() for record in caplog.records if "method=get" in record.getMessage()]
    assert len(asked) == len(Listing)


def charge_of(simulator: StripeSimulator, payment: Payment) -> str:
    """As Stripe knows it, though we may not yet."""
    session = simulator.client().v1.checkout.sessions.retrieve(session_of(payment), {"expand": ["payment_intent"]})
    assert isinstance(session.payment_intent, stripe.PaymentIntent)
    return str(session.payment_intent.latest_charge)


def came_in(payment: Payment) -> int:
    """What Stripe's money did to the wallet."""
    kinds = ("topup", "refund", "dispute")
    moved = Transfer.objects.filter(wallet=payment.account_id, kind__in=kinds)
    return sum(each.amount if each.credit == "wallet" else -each.amount for each in moved)


class Killed(BaseException):
    """At this point the process is gone."""


@pytest.mark.django_db
def test_a_run_that_is_killed_after_any_page_costs_a_repeat(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    steps: list[str] = []
    simulator.control("payout", amount="100")

    def die_at(last: int) -> Callable[[str], None]:
        def tell(line: str) -> None:
            steps.append(line)
            if len(steps) > last:
                raise Killed

        return tell

    for last in range(10):
        steps.clear()
        try:
            reconcile.run(now=clock.now(), tell=die_at(last))
        except Killed:
            continue
        break
    assert 0 < last < 9, "It was killed several times, and then went to its end."
    run()
    assert posted(payment) == 25 * USD
    assert fees_of(payment) == [FEE]


def test_reconcilers_that_are_killed_at_random_post_once(simulator: StripeSimulator, committed: None) -> None:
    payments = [paid(simulator) for _ in range(6)]
    simulator.control("fee", amount="77")
    for seed in range(6):
        processes.kill_at_random(processes.reconcile_for_ever, simulator.key, simulator.url, seed=seed, seconds=0.4)
    # PostgreSQL may still be at work for the last one.
    until(lambda: not isinstance(stage.at_the_same_time(run)[0], reconcile.Busy))
    assert run() == Outcome()
    assert [posted(payment) for payment in payments] == [25 * USD] * 6
    assert [fees_of(payment) for payment in payments] == [[FEE]] * 6
    billed = simulator.client().v1.balance_transactions.list({"type": "stripe_fee"}).data[0]
    assert Transfer.objects.filter(cause=f"stripe:fee:{billed.id}").count() == 1
    stage.assert_books_hold()


def test_of_two_reconcilers_one_works(simulator: StripeSimulator, committed: None) -> None:
    payment = paid(simulator)
    results = stage.at_the_same_time(*[lambda: reconcile.run(now=clock.now(), tell=lambda _: None)] * 4)
    assert Outcome() in results
    assert all(isinstance(result, Outcome | reconcile.Busy) for result in results)
    assert posted(payment) == 25 * USD
    assert fees_of(payment) == [FEE]


def test_a_movement_that_two_post_at_the_same_time_is_posted_once(simulator: StripeSimulator, committed: None) -> None:
    payment = paid(simulator)
    fulfilment.refresh(payment)
    simulator.control("payout", amount="1000")
    span = stripe_lists.Span(BEGINNING, clock.now() + timedelta(minutes=1), "")
    found = stripe_lists.movements(span).found
    movements.store(found)
    works = [lambda each=each: movements.post(each.id) for each in found]
    assert stage.at_the_same_time(*works * 4) == [None] * 8
    assert fees_of(payment) == [FEE]
    payout = Transfer.objects.get(cause__startswith="stripe:po:", stripe_movement__in=[each.id for each in found])
    assert (payout.debit, payout.credit, payout.amount) == (LedgerAccount.BANK, "simulated_clearing", 10 * USD)


@pytest.mark.django_db
def test_reaching_back_shortens_no_reading_that_goes_further(simulator: StripeSimulator) -> None:
    reconcile.reach_back(to=BEGINNING)
    far = clock.now() - timedelta(days=40)  # Nobody has read for so long.
    StripeCursor.objects.update(since=far, until=clock.now(), after="pi_1")
    tasks.reconcile_stripe_deeply()
    assert set(StripeCursor.objects.values_list("since", "after")) == {(far, "pi_1")}


@pytest.mark.django_db
def test_an_object_that_cannot_be_written_down_keeps_no_list_from_being_read(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_intent: str) -> None:
        raise ledger.InvalidTransfer

    paid(simulator)
    monkeypatch.setattr(fulfilment, "fulfil", broken)
    assert reconcile.run(now=clock.now(), tell=lambda _: None).errors == {}
    assert StripeCursor.objects.get(list=Listing.PAYMENT_INTENTS, livemode=False).until is None


@pytest.mark.django_db
def test_somebody_who_reaches_back_meanwhile_is_not_overruled(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    run()
    far = clock.now() - timedelta(days=300)

    def tell(line: str) -> None:
        """Between the work on the page of events and the move of its cursor."""
        if line.startswith("events"):
            reconcile.reach_back(to=far)

    assert not reconcile.run(now=clock.now(), tell=tell).is_complete
    assert StripeCursor.objects.get(list=Listing.EVENTS, livemode=False).since == far
    assert posted(payment) == 25 * USD


@pytest.mark.django_db
@pytest.mark.parametrize("mark", ["", "7", "not-an-id"])
def test_payments_to_other_apps_are_asked_for_by_nobody(simulator: StripeSimulator, mark: str) -> None:
    client = simulator.client()
    reconcile.reach_back(to=BEGINNING)
    metadata: dict[str, str] = {"payment": mark} if mark else {"order": "1"}
    intent = paid_to_another_app(simulator, client, payment_intent_data={"metadata": metadata})
    assert isinstance(intent, stripe.PaymentIntent)
    assert reconcile.run(now=clock.now(), tell=lambda _: None) == Outcome()
    movement = BalanceTransaction.objects.get(payment_intent=intent.id)
    assert (movement.foreign, movement.fee_transfer, movement.posted_at is None) == (True, None, False)
