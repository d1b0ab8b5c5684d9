"""The customer sees what became of a disputed payment: in the list, on its page and receipt, and in the statement."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.urls import reverse

from billing import clock, receipts, statement_papers
from billing.models import Payment, Receipt
from billing.payments import disputes, flags
from tests import factories, people
from tests.billing import papers
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_disputes import disputed, paid
from tests.billing.test_refunds_told import seen

pytestmark = pytest.mark.django_db


def told_of(payment: Payment, sentence: str) -> str:
    """What the list says of the payment; its page and its receipt say the sentence, too."""
    receipt = Receipt.objects.get(payment=payment)
    for page in (reverse("billing:payment", args=[payment.pk]), reverse("billing:receipt", args=[receipt.number])):
        assert sentence in seen(payment, page)
    return seen(payment, "/billing/")


def test_each_says_what_the_bank_took_and_that_it_came_back(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    began = f"Disputed at the bank on {datetime.now(UTC):%Y-%m-%d}:"
    stripe.moves(dispute, -2500)
    disputes.apply(dispute)
    sentence = f"{began} $25.00 is taken back until it is decided."
    assert f"Disputed {sentence}" in told_of(payment, sentence)

    stripe.objects[dispute]["status"] = "won"
    stripe.moves(dispute, 2500)
    disputes.apply(dispute)
    sentence = f"{began} nothing was taken back in the end."
    assert f"Paid {sentence}" in told_of(payment, sentence)


def test_of_a_dispute_that_is_lost_it_says_what_was_taken(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    stripe.moves(dispute, -2400)
    stripe.objects[dispute]["status"] = "lost"
    disputes.apply(dispute)
    sentence = "$24.00 was taken back in the end."
    assert re.search(rf"Disputed Disputed at the bank on \S+: {re.escape(sentence)}", told_of(payment, sentence))


def test_an_inquiry_leaves_the_payment_paid_and_is_forgotten_when_it_is_over(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe, status="warning_under_review")
    disputes.apply(dispute)
    sentence = "Nothing was taken back."
    assert re.search(rf"Paid The bank asks us about it since \S+\. {sentence}", told_of(payment, sentence))

    stripe.objects[dispute]["status"] = "warning_closed"
    disputes.apply(dispute)
    assert "bank asks us" not in seen(payment, "/billing/")


def test_the_statement_has_a_line_for_each_movement_and_says_what_was_tax(stripe: FakeStripe) -> None:
    payment, intent = paid(stripe, tax=475)
    dispute = stripe.dispute(intent, 2975)
    stripe.moves(dispute, -2975)
    stripe.moves(dispute, 595)
    disputes.apply(dispute)

    page = seen(payment, reverse("billing:statement"))
    assert re.search(r"Disputed payment .{0,40}Payment of 20", page)
    assert "Disputed payment that came back" in page
    now = clock.now()
    notes = " ".join(statement_papers.paper(payment.account, now.date().replace(day=1), now=now).notes)
    assert (
        "Simulated, no real money: $23.80 of disputed payments was taken back in this month, $3.80 of it tax." in notes
    )


def test_a_month_in_which_more_came_back_than_went_says_so() -> None:
    account, _ = people.customer("alice")
    payment = papers.paid(account)
    dispute = papers.dispute(payment, status="won", closed_at=datetime.now(UTC))
    credit = factories.credit(account, 10**13)
    dispute.movements.create(stripe_id="txn_1", cents=1190, transfer=credit, moved_at=dispute.opened_at)
    receipts.issue(payment, datetime.now(UTC))
    now = clock.now()
    notes = " ".join(statement_papers.paper(account, now.date().replace(day=1), now=now).notes)
    assert "$11.90 of disputed payments was given back again in this month, $1.90 of it tax." in notes


def test_the_funds_page_says_that_nothing_is_charged_by_itself_and_what_is_owed(stripe: FakeStripe) -> None:
    payment, dispute = disputed(stripe)
    client: Any = people.owner_of(payment.account)
    assert "Nothing is charged by itself" not in client.get("/billing/funds/").content.decode()
    factories.debit(payment.account, 10**13)
    stripe.moves(dispute, -2500)
    disputes.apply(dispute)

    shown = seen(payment, "/billing/funds/")

    assert "Nothing is charged by itself until somebody here has looked at it" in shown
    assert "$10.00 is owed: it is paid off first from what you add." in shown
    flags.clear(payment.flags.all(), now=clock.now(), by=factories.user())
    assert "Nothing is charged by itself" not in seen(payment, "/billing/funds/")
