"""What a bank takes back is posted once, whatever the messages about it do; an inquiry moves nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial, reduce
from itertools import permutations
from operator import or_
from typing import Any

import pytest
from django.db.models import Q

from billing import money
from billing.models import (
    Dispute,
    DisputeMail,
    DisputeMovement,
    Payment,
    PaymentFlag,
    StripeEvent,
    Transfer,
)
from billing.payments import disputes, fulfilment, inbox, returns, stripe_api, stripe_objects
from tests import factories
from tests.billing import processes, stage
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_fulfilment import begun, session_of
from tests.billing.test_inbox import event

PAID = 2500


def paid(stripe: FakeStripe, cents: int = PAID, *, tax: int = 0) -> tuple[Payment, str]:
    """A payment that Stripe has, and of which nobody has told us yet; and its PaymentIntent."""
    payment = begun(stripe, cents)
    return payment, stripe.pay(session_of(payment), tax=tax)


def disputed(stripe: FakeStripe, **fields: Any) -> tuple[Payment, str]:
    """A payment of 25 USD that is credited, and a dispute of all of it that has moved nothing yet."""
    payment, intent = paid(stripe)
    fulfilment.fulfil(intent)
    payment.refresh_from_db()
    return payment, stripe.dispute(intent, PAID, **fields)


def balance(payment: Payment) -> tuple[int, int]:
    """Cents, and cents of debt."""
    wallet = stage.wallet_of(payment.account)
    return wallet.posted // money.PICO_PER_CENT, wallet.debt // money.PICO_PER_CENT


def told(kind: str, about: str) -> None:
    """A message of Stripe's comes, and is worked on."""
    body = event(kind, {"id": about})
    row = StripeEvent.objects.create(
        id=json.loads(body)["id"], type=kind, created=datetime.now(UTC), livemode=False, payload=body, source="webhook"
    )
    inbox.work(row.pk)
    row.refresh_from_db()
    assert row.processed_at, row.error


@pytest.mark.django_db
def test_what_the_bank_takes_leaves_the_wallet_by_the_amount_of_the_balance_transaction(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    movement = stripe.moves(dispute, -2400)

    told("charge.dispute.funds_withdrawn", dispute)

    assert balance(payment) == (100, 0)
    transfer = Transfer.objects.get(cause=f"stripe:dp:{dispute}:{movement}")
    assert (transfer.kind, transfer.debit, transfer.credit) == ("dispute", "wallet", "simulated_clearing")
    row = Dispute.objects.get(stripe_id=dispute)
    assert (row.payment, row.amount_cents, row.status, row.closed_at) == (payment, PAID, "needs_response", None)
    assert row.due_by is not None
    assert list(row.movements.values_list("stripe_id", "cents", "transfer")) == [(movement, -2400, transfer.pk)]
    stage.assert_books_hold()


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "back", "left"), [("won", 2500, 2500), ("lost", 0, 0)])
def test_a_dispute_that_is_won_brings_the_money_back(stripe: FakeStripe, status: str, back: int, left: int) -> None:
    payment, dispute = disputed(stripe)
    stripe.moves(dispute, -PAID)
    told("charge.dispute.funds_withdrawn", dispute)
    assert balance(payment) == (0, 0)

    stripe.objects[dispute]["status"] = status
    if back:
        stripe.moves(dispute, back)
    told("charge.dispute.closed", dispute)

    row = Dispute.objects.get(stripe_id=dispute)
    assert (balance(payment), row.status) == ((left, 0), status)
    assert row.closed_at
    payment.refresh_from_db()
    assert payment.returned_cents == PAID - back
    stage.assert_books_hold()


@pytest.mark.django_db
@pytest.mark.parametrize("status", ["warning_needs_response", "warning_under_review", "warning_closed"])
def test_an_inquiry_moves_nothing_and_flags_nobody(stripe: FakeStripe, status: str) -> None:
    payment, dispute = disputed(stripe, status=status)

    told("charge.dispute.created", dispute)

    assert balance(payment) == (PAID, 0)
    assert Dispute.objects.get(stripe_id=dispute).is_inquiry
    assert not PaymentFlag.objects.filter(account=payment.account).exists()
    assert DisputeMail.objects.get(dispute__stripe_id=dispute).about == "inquiry"


@pytest.mark.django_db
def test_an_inquiry_that_becomes_a_dispute_flags_takes_and_is_told_again(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe, status="warning_needs_response")
    told("charge.dispute.created", dispute)
    stripe.objects[dispute]["status"] = "needs_response"
    stripe.moves(dispute, -PAID)

    for _ in range(2):
        told("charge.dispute.funds_withdrawn", dispute)

    assert balance(payment) == (0, 0)
    flag = PaymentFlag.objects.get(account=payment.account)
    assert (flag.cause, flag.payment, flag.reason) == (dispute, payment, "Dispute of $25.00: product not received")
    mails = DisputeMail.objects.filter(dispute__stripe_id=dispute).order_by("pk")
    assert [mail.about for mail in mails] == ["inquiry", "dispute"]


@pytest.mark.django_db
def test_what_was_spent_becomes_debt_and_the_next_payment_pays_it_first(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    factories.debit(payment.account, money.from_cents(2000))
    stripe.moves(dispute, -PAID)

    told("charge.dispute.funds_withdrawn", dispute)
    assert balance(payment) == (-2000, 2000)

    factories.credit(payment.account, money.from_cents(3000))
    assert balance(payment) == (1000, 0)
    assert stage.lots_of(payment.account)[-1] == ("paid", money.from_cents(1000))
    stage.assert_books_hold()


@pytest.mark.django_db
def test_the_tax_that_was_paid_goes_back_with_the_dispute_and_comes_again(stripe: FakeStripe) -> None:
    payment, intent = paid(stripe, tax=475)
    dispute = stripe.dispute(intent, 2975)
    taken = stripe.moves(dispute, -2975)

    told("charge.dispute.funds_withdrawn", dispute)
    assert balance(payment) == (0, 0)
    tax = Transfer.objects.get(cause=f"stripe:dp:{dispute}:{taken}:tax")
    assert (tax.debit, tax.credit, tax.amount) == ("tax_payable", "simulated_clearing", money.from_cents(475))

    back = stripe.moves(dispute, 2975)
    told("charge.dispute.funds_reinstated", dispute)
    assert balance(payment) == (PAID, 0)
    assert Transfer.objects.get(cause=f"stripe:dp:{dispute}:{back}:tax").credit == "tax_payable"
    stage.assert_books_hold()


@pytest.mark.django_db
def test_a_dispute_of_a_payment_that_nobody_told_us_of_is_credited_first(stripe: FakeStripe) -> None:
    payment, intent = paid(stripe)
    dispute = stripe.dispute(intent)
    stripe.moves(dispute, -PAID)

    told("charge.dispute.created", dispute)

    payment.refresh_from_db()
    assert (payment.state, balance(payment)) == ("paid", (0, 0))


@pytest.mark.django_db
@pytest.mark.parametrize("intent", [None, "pi_of_another_shop"])
def test_what_is_not_ours_is_left_alone(stripe: FakeStripe, intent: str | None) -> None:
    _, of_ours = paid(stripe)
    stripe.objects["pi_of_another_shop"] = stripe.objects[of_ours] | {"id": "pi_of_another_shop", "metadata": {}}
    dispute, warning = stripe.dispute(intent or ""), stripe.warn(intent)
    stripe.objects[dispute]["payment_intent"] = intent
    stripe.moves(dispute, -PAID)

    told("charge.dispute.created", dispute)
    told("radar.early_fraud_warning.created", warning)

    assert not Dispute.objects.filter(stripe_id=dispute).exists()
    assert not PaymentFlag.objects.filter(cause=warning).exists()


@pytest.mark.django_db
def test_a_warning_of_fraud_flags_the_account_and_moves_nothing(stripe: FakeStripe) -> None:
    payment, intent = paid(stripe)
    warning = stripe.warn(intent)

    for kind in ("created", "updated"):
        told(f"radar.early_fraud_warning.{kind}", warning)

    flag = PaymentFlag.objects.get(account=payment.account)
    assert (flag.cause, flag.payment) == (warning, payment)
    assert flag.reason == "Bank warns of fraud: made with stolen card"
    assert balance(payment) == (PAID, 0)


@pytest.mark.django_db
def test_what_cannot_be_posted_is_known_to_staff_all_the_same(stripe: FakeStripe) -> None:
    payment, intent = paid(stripe)
    stripe.objects[intent]["amount_received"] = 1  # So it does not fit, and is not credited.
    dispute = stripe.dispute(intent)
    stripe.moves(dispute, -PAID)
    with pytest.raises(returns.NotPaid):
        disputes.apply(dispute)
    assert PaymentFlag.objects.filter(account=payment.account).exists()
    assert DisputeMail.objects.filter(dispute__stripe_id=dispute).exists()

    stripe.objects[intent]["amount_received"] = PAID
    disputes.apply(dispute)
    assert balance(payment) == (0, 0)


@pytest.mark.django_db
def test_a_second_charge_for_one_payment_takes_nothing_of_the_first(stripe: FakeStripe) -> None:
    """It was credited once, so what the bank takes of the other charge was never the customer's balance."""
    payment, _ = disputed(stripe)
    again = stripe.attempt(session_of(payment), status="succeeded", id="pi_again")
    stripe.objects["pi_again"] = stripe.objects[again] | {"id": "pi_again"}
    dispute = stripe.dispute("pi_again")
    stripe.moves(dispute, -PAID)

    with pytest.raises(returns.NotPaid):
        disputes.apply(dispute)

    assert balance(payment) == (PAID, 0)
    assert PaymentFlag.objects.filter(account=payment.account).exists()


@pytest.mark.django_db
def test_a_movement_in_another_currency_is_for_a_person(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    stripe.moves(dispute, -2300, currency="eur")
    body = event("charge.dispute.funds_withdrawn", {"id": dispute})
    row = StripeEvent.objects.create(
        id="evt_eur", type="charge.dispute.funds_withdrawn", created=datetime.now(UTC), livemode=False, payload=body,
        source="webhook",
    )  # fmt: skip

    inbox.work(row.pk)

    row.refresh_from_db()
    assert (row.processed_at, row.next_attempt_at) == (None, None)
    assert "is in eur" in row.error
    assert balance(payment) == (PAID, 0)


@pytest.mark.django_db
def test_an_answer_that_is_out_of_date_changes_nothing_that_was_written(
    stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker asks, and is slow; meanwhile another hears of the end, and writes it down."""
    payment, dispute = disputed(stripe)
    stripe.moves(dispute, -PAID)
    disputes.apply(dispute)
    ask = stripe_api.dispute

    def slowly(dispute_id: str) -> stripe_objects.FoundDispute:
        monkeypatch.setattr(stripe_api, "dispute", ask)
        before = ask(dispute_id)
        stripe.objects[dispute]["status"] = "won"
        stripe.moves(dispute, PAID)
        disputes.apply(dispute)
        return before

    monkeypatch.setattr(stripe_api, "dispute", slowly)
    disputes.apply(dispute)

    assert Dispute.objects.get(stripe_id=dispute).status == "won"
    assert balance(payment) == (PAID, 0)


Books = tuple[Any, ...]


class Story:
    """A payment and what follows it, in the order of the world; we may be told in any other."""

    def __init__(self, stripe: FakeStripe) -> None:
        self.stripe = stripe
        self.payment, self.intent = paid(stripe, tax=475)
        self.refund, self.dispute = stripe.refunds_on_the_dashboard(self.intent, 333), stripe.dispute(self.intent, 1000)
        self.steps: list[tuple[str, str, Callable[[], object]]] = [
            ("payment_intent.succeeded", self.intent, lambda: None),
            ("refund.created", self.refund, lambda: None),
            ("charge.dispute.funds_withdrawn", self.dispute, lambda: stripe.moves(self.dispute, -1000)),
            ("charge.dispute.funds_reinstated", self.dispute, lambda: stripe.moves(self.dispute, 1000)),
            ("charge.dispute.closed", self.dispute, lambda: stripe.objects[self.dispute].update(status="won")),
        ]
        self.happened = 0

    def tell(self, number: int) -> None:
        """Let everything happen up to the step, and be told of it."""
        kind, about, _ = self.steps[number]
        for _, _, happen in self.steps[self.happened : number + 1]:
            happen()
        self.happened = max(self.happened, number + 1)
        told(kind, about)

    def books(self) -> Books:
        account = self.payment.account
        wallet = stage.wallet_of(account)
        about = [Q(cause__contains=each) for each in (self.intent, self.refund, self.dispute)]
        ours = Transfer.objects.filter(reduce(or_, about))
        accounts: Counter[str] = Counter()
        for transfer in ours:
            accounts[transfer.debit] -= transfer.amount
            accounts[transfer.credit] += transfer.amount
        self.payment.refresh_from_db()
        returned = (self.payment.returned_cents, self.payment.returned_tax_cents)
        lots = sorted(stage.lots_of(account))
        return wallet.posted, wallet.held, wallet.debt, wallet.seq, lots, sorted(accounts.items()), returned


def end(stripe: FakeStripe, order: Sequence[int]) -> Books:
    """The books after all was told in this order."""
    story = Story(stripe)
    for number in order:
        story.tell(number)
    return story.books()


@pytest.mark.django_db
@pytest.mark.parametrize("first", range(5))
def test_every_order_of_messages_ends_in_the_same_books(stripe: FakeStripe, first: int) -> None:
    expected = end(stripe, range(5))
    assert expected[1:3] == (0, 0)
    orders = [order for order in permutations(range(5)) if order[0] == first]
    assert len(orders) == 24

    for order in orders:
        assert end(stripe, order) == expected, order

    stage.assert_books_hold()


@pytest.mark.django_db
def test_the_same_again_in_any_order_moves_nothing_more(stripe: FakeStripe) -> None:
    story = Story(stripe)
    for number in range(5):
        story.tell(number)
        story.tell(number)
    books = story.books()

    for number in (4, 0, 3, 1, 2, 2):
        story.tell(number)

    assert story.books() == books == end(stripe, range(5))


def test_at_the_same_time_it_is_taken_once(stripe: FakeStripe, committed: None) -> None:
    payment, intent = paid(stripe)
    dispute = stripe.dispute(intent)
    stripe.moves(dispute, -PAID)
    stripe.moves(dispute, 500)

    results = stage.at_the_same_time(*[partial(disputes.apply, dispute)] * 8)

    assert [str(result) for result in results] == [dispute] * 8
    assert balance(payment) == (500, 0)
    assert DisputeMovement.objects.filter(dispute__stripe_id=dispute).count() == 2
    assert PaymentFlag.objects.filter(account=payment.account).count() == 1
    assert DisputeMail.objects.filter(dispute__stripe_id=dispute).count() == 1
    stage.assert_books_hold()


def test_killed_at_any_moment_it_is_taken_once(stripe: FakeStripe, committed: None) -> None:
    many = [disputed(stripe) for _ in range(12)]
    for _, dispute in many:
        stripe.moves(dispute, -PAID)
        stripe.moves(dispute, PAID - 100)
    ids = [dispute for _, dispute in many]

    for seed in range(4):
        processes.kill_at_random(processes.apply_disputes_for_ever, stripe.url, ids, seed=seed, seconds=0.5)
    applied = DisputeMovement.objects.filter(dispute__stripe_id__in=ids).count()
    for dispute in ids:
        disputes.apply(dispute)

    assert applied
    assert [balance(payment) for payment, _ in many] == [(PAID - 100, 0)] * 12
    for payment, _ in many:
        payment.refresh_from_db()
        assert payment.returned_cents == 100
    stage.assert_books_hold()
