"""The comparison with Stripe adds up what is old once, and finds the same as one that reads all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.forms.models import model_to_dict

from billing import clock, ledger, money
from billing.models import BalanceTransaction, ClearingCheck, ClearingSeal, ClearingSubject, LedgerAccount, TransferKind
from billing.payments import clearing
from tests import factories
from tests.billing import stage
from tests.billing.test_reconcile import charge_of, paid, run, simulator
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_after_payment import paid as paid_to_another_app

__all__ = ["simulator"]

Facts = dict[str, Any]


@pytest.fixture(autouse=True)
def sealed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one check takes down the next one seals."""
    monkeypatch.setattr(clearing, "SEALED_AFTER", timedelta(0))


@pytest.fixture(autouse=True)
def all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have left more than are shown."""
    monkeypatch.setattr(clearing, "EXAMPLES", 100_000)


def compared(*, later: timedelta = timedelta(0)) -> Facts:
    checks = clearing.check(now=clock.now() + later)
    (found,) = (check for check in checks if check.clearing == "simulated_clearing")
    return model_to_dict(ClearingCheck.objects.get(pk=found.pk), exclude=["checked_at"])


def compared_anew(*, later: timedelta = timedelta(0)) -> Facts:
    """What one that reads all finds; the seals stay."""
    with transaction.atomic():
        clearing.begin_again()
        found = compared(later=later)
        transaction.set_rollback(True)
    return found


def post(cents: int, cause: str) -> None:
    ledger.post(
        amount=money.from_cents(cents), kind=TransferKind.FEE, debit=LedgerAccount.STRIPE_FEES,
        credit=LedgerAccount.SIMULATED_CLEARING, cause=cause, now=clock.now(),
    )  # fmt: skip


def what_happens(stripe: StripeSimulator) -> list[Callable[[], object]]:
    """To payments of ours, of another app and in another currency, one after the other."""
    client = stripe.client()
    price = {"currency": "eur", "unit_amount": 5000, "product_data": {"name": "Else"}}
    ours, theirs = charge_of(stripe, paid(stripe)), paid_to_another_app(stripe, client, cents=5000)
    foreign = theirs.to_dict()["latest_charge"]["id"]
    made: dict[str, str] = {}

    def dispute(of: str) -> None:
        made[of] = stripe.control("dispute", charge=of)["id"]

    def payout() -> None:
        made["payout"] = stripe.control("payout", amount="900")["id"]

    return [
        lambda: None,
        lambda: client.v1.refunds.create({"payment_intent": theirs.id, "amount": 1000}),
        lambda: stripe.control("refund", charge=ours, amount="600"),
        payout,
        lambda: dispute(ours),
        lambda: dispute(foreign),
        lambda: paid_to_another_app(stripe, client, line_items=[{"quantity": 1, "price_data": price}]),
        lambda: stripe.control("win", dispute=made[ours]),
        lambda: stripe.control("win", dispute=made[foreign]),
        lambda: stripe.control("return-payout", payout=made["payout"], status="failed"),
        lambda: post(33, "stripe:fee:txn_nobody_knows"),
        lambda: stripe.control("fee", amount="250"),
        lambda: post(44, "stripe:fee:txn_nobody_knows:again"),
    ]


@pytest.mark.django_db
@pytest.mark.parametrize("step", [2, 50_000])
def test_what_was_added_up_before_makes_no_difference(
    simulator: StripeSimulator, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(clearing, "STEP", step)
    for happens in what_happens(simulator):
        happens()
        run()
        for later in (timedelta(0), timedelta(hours=2)):
            assert compared(later=later) == compared_anew(later=later)
    assert ClearingSubject.objects.filter(clearing="simulated_clearing").count() > 5


@pytest.mark.django_db
def test_what_is_sealed_is_not_read_again_until_the_seal_is_broken(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    run()
    payment.refresh_from_db()
    for _ in range(3):
        before = compared()
    movements = BalanceTransaction.objects.filter(payment_intent=payment.payment_intent)
    movements.update(amount_cents=1, net_cents=1, fee_cents=0)

    assert compared() == before
    assert compared_anew() != before


@pytest.mark.django_db
def test_what_moves_a_balanced_subject_later_is_compared_with_all_of_it(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    run()
    payment.refresh_from_db()
    for _ in range(3):
        compared()
    post(5, f"stripe:fee:{payment.payment_intent}:again")

    found = compared(later=timedelta(hours=2))

    (example,) = [each for each in found["examples"] if each["id"] == payment.payment_intent]
    assert (example["stripe"], example["books"], example["what"]) == (2500, 2495, "charge, fee, topup")
    assert found == compared_anew(later=timedelta(hours=2))


def test_a_transfer_that_is_committed_later_than_one_with_a_higher_number_is_not_missed(committed: None) -> None:
    with stage.another_connection() as other:
        other.execute(
            "INSERT INTO billing_transfer (kind, debit, credit, amount, cause, day, reason) "
            "VALUES ('fee', 'stripe_fees', 'simulated_clearing', 70000000000, %s, current_date, '')",
            [factories.unique("slow")],
        )
        post(1, factories.unique("quick"))
        ClearingSeal.objects.update(next_at=None)
        compared()  # Takes down how far it sees.
        other.commit()
    for _ in range(3):
        assert compared() == compared_anew()
