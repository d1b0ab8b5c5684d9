"""What Stripe has of us and what the books say it has: the same once all is posted; where not, it is shown why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.models import User
from billing import clock, ledger, money
from billing.models import (
    BalanceTransaction,
    ClearingCheck,
    CreditLot,
    LedgerAccount,
    StripeCursor,
    Transfer,
    TransferKind,
)
from billing.payments import clearing, movements, reconcile
from billing.payments.reconcile import BEGINNING, Outcome
from flint.sandbox.stripe_simulator.balance import DISPUTE_FEE_CENTS
from tests import factories, people
from tests.billing.test_reconcile import FEE, charge_of, paid, run, simulator
from tests.stripe_simulator.process import StripeSimulator
from tests.stripe_simulator.test_after_payment import paid as paid_to_another_app

__all__ = ["simulator"]

pytestmark = pytest.mark.django_db
PAGE = "/admin/billing/balancetransaction/books/"


@pytest.fixture(autouse=True)
def all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have left more than are shown."""
    monkeypatch.setattr(clearing, "EXAMPLES", 100_000)


def compared(*, later: timedelta = timedelta(0)) -> ClearingCheck:
    """The comparison of simulated money. Other tests have left their differences in it: look at what changes."""
    return next(check for check in clearing.check(now=clock.now() + later) if check.clearing == "simulated_clearing")


def figures(check: ClearingCheck) -> tuple[int, int, int]:
    """Of the difference, in cents: what is not ours, and what is; and of how many objects that is."""
    return (
        check.foreign_cents,
        check.fresh_cents + check.unexplained_cents,
        check.fresh_count + check.unexplained_count,
    )


def example_of(check: ClearingCheck, subject: str) -> dict[str, Any]:
    return next(example for example in check.examples if example["id"] == subject)


def moved(kind: str) -> list[tuple[str, str, int]]:
    """What the transfers of this kind moved, in cents, in the order of posting."""
    found = Transfer.objects.filter(kind=kind, debit__in=SIMULATED).order_by("id")
    found |= Transfer.objects.filter(kind=kind, credit__in=SIMULATED).order_by("id")
    return [(each.debit, each.credit, each.amount // money.PICO_PER_CENT) for each in found]


SIMULATED = ["simulated_clearing"]


def test_all_that_moved_is_posted_once_and_nothing_differs(simulator: StripeSimulator) -> None:
    before, posted_before = figures(compared()), {kind: len(moved(kind)) for kind in ("fee", "payout", "adjustment")}
    paid(simulator)
    simulator.control("fee", amount="250")
    simulator.control("adjustment", amount="70")
    lost, won = charge_of(simulator, paid(simulator)), charge_of(simulator, paid(simulator))
    simulator.control("refund", charge=lost, amount="600")
    for charge, end in ((lost, "lose"), (won, "win")):
        simulator.control(end, dispute=simulator.control("dispute", charge=charge)["id"])
    for status in ("failed", "canceled"):
        simulator.control("return-payout", payout=simulator.control("payout", amount="900")["id"], status=status)
    simulator.control("payout")

    for _ in range(3):
        assert run() == Outcome()
        reconcile.reach_back(to=BEGINNING)

    assert figures(compared()) == before
    new = {kind: moved(kind)[count:] for kind, count in posted_before.items()}
    fees = [FEE, FEE, FEE, 250, DISPUTE_FEE_CENTS, DISPUTE_FEE_CENTS]
    assert sorted(new["fee"]) == [("stripe_fees", "simulated_clearing", cents) for cents in fees]
    assert new["adjustment"] == [("simulated_clearing", "adjustments", 70)]
    out, back = ("bank", "simulated_clearing"), ("simulated_clearing", "bank")
    last = 2 * 2500 + 70 - sum(fees)  # One payment was lost.
    assert sorted(new["payout"]) == sorted([(*out, 900), (*back, 900)] * 2 + [(*out, last)])


def test_a_transfer_of_ours_that_stripe_does_not_know_is_shown_with_amount_and_age(simulator: StripeSimulator) -> None:
    before = compared()
    account, _email = people.customer("lucky")
    now, amount = clock.now(), money.from_cents(1234)
    ledger.credit(
        account=account, amount=amount, kind=TransferKind.TOPUP, source=LedgerAccount.SIMULATED_CLEARING,
        cause="stripe:pi:pi_nobody_paid", now=now, lot=CreditLot.Kind.PAID,
    )  # fmt: skip

    fresh = compared()
    assert (fresh.fresh_cents, fresh.fresh_count) == (before.fresh_cents - 1234, before.fresh_count + 1)
    assert fresh.difference_cents == before.difference_cents - 1234
    late = compared(later=timedelta(hours=2))
    assert (late.fresh_count, late.unexplained_count) == (0, before.fresh_count + before.unexplained_count + 1)
    example = example_of(late, "pi_nobody_paid")
    assert (example["stripe"], example["books"], example["what"]) == (0, 1234, "topup")
    assert abs(datetime.fromisoformat(example["moved_at"]) - now) < timedelta(minutes=1)


def test_money_at_stripe_that_the_books_do_not_have_is_shown(simulator: StripeSimulator) -> None:
    before = compared(later=timedelta(hours=2))
    paid(simulator)
    names_nobody = {"metadata": {"payment": "0199c0de-0000-7000-8000-000000000001"}}
    lost = paid_to_another_app(simulator, simulator.client(), payment_intent_data=names_nobody)
    run()
    after = compared(later=timedelta(hours=2))
    assert after.difference_cents == before.difference_cents + 2500
    assert after.unexplained_count == before.unexplained_count + 1
    example = example_of(after, lost.id)
    assert (example["stripe"], example["books"], example["what"], example["part"]) == (2500, 0, "charge", "unexplained")


def test_what_is_not_ours_is_a_named_part_and_stops_nothing(simulator: StripeSimulator) -> None:
    before = compared()
    paid(simulator)
    client = simulator.client()
    intent = paid_to_another_app(simulator, client, cents=5000)
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 1000})
    assert run() == Outcome()
    after = compared()
    assert figures(after)[1:] == figures(before)[1:]
    assert after.foreign_cents - before.foreign_cents == 5000 - 175 - 1000
    assert (after.foreign_types["charge"], after.foreign_types["refund"]) == ([1, 4825], [1, -1000])
    assert not Transfer.objects.filter(cause__contains=intent.id).exists()


def test_another_currency_is_shown_and_never_posted(simulator: StripeSimulator) -> None:
    before = compared()
    paid(simulator)
    price = {"currency": "eur", "unit_amount": 5000, "product_data": {"name": "Else"}}
    intent = paid_to_another_app(
        simulator, simulator.client(), line_items=[{"quantity": 1, "price_data": price}],
        payment_intent_data={"metadata": {"payment": "0199c0de-0000-7000-8000-000000000002"}},
    )  # fmt: skip
    assert run() == Outcome()
    after = compared()
    assert figures(after) == figures(before)
    assert after.currencies == {"eur": 5000 - 175}
    movement = BalanceTransaction.objects.get(payment_intent=intent.id)
    assert (movement.fee_transfer, movement.posted_at is None) == (None, False)


def test_a_fee_that_stripe_gives_back_is_posted_the_other_way(simulator: StripeSimulator) -> None:
    before = figures(compared())
    row = movement("stripe_fee", amount=40)
    row.save()
    paid(simulator)
    run()
    row.refresh_from_db()
    assert row.fee_transfer
    assert (row.fee_transfer.debit, row.fee_transfer.credit) == ("simulated_clearing", "stripe_fees")
    assert figures(compared()) == before


def test_a_movement_whose_cause_moved_something_else_stays_with_its_reason(simulator: StripeSimulator) -> None:
    row = movement("stripe_fee", amount=-40)
    row.save()
    ledger.post(
        amount=1, kind=TransferKind.FEE, debit=LedgerAccount.STRIPE_FEES, credit=LedgerAccount.SIMULATED_CLEARING,
        cause=f"stripe:fee:{row.pk}", now=clock.now(),
    )  # fmt: skip
    payment = paid(simulator)
    run()
    row.refresh_from_db()
    assert row.error.startswith("CauseReused: ")
    assert row.posted_at is None
    payment.refresh_from_db()
    assert payment.transfer, "The others are worked on."
    content = people.superuser().get(PAGE).content.decode()
    assert "What cannot be posted" in content
    assert row.pk in content


def movement(type_: str, *, amount: int, **fields: Any) -> BalanceTransaction:
    id_, now = factories.unique("txn"), clock.now()
    given = {
        "id": id_, "type": type_, "reporting_category": "fee", "amount_cents": amount, "fee_cents": 0,
        "net_cents": amount, "currency": "usd", "subject": id_, "created": now, "available_on": now, "livemode": False,
    }  # fmt: skip
    return BalanceTransaction(**given | fields)


def test_what_waits_to_be_posted_is_read_in_pages_each_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = datetime(2026, 1, 2, tzinfo=UTC)
    moments = [begun + timedelta(seconds=seconds) for seconds in (3, 1, 2, 2, 2, 2, 9)]  # Pages end within a second.
    rows = [movement("stripe_fee", amount=-1, created=moment) for moment in moments]
    BalanceTransaction.objects.bulk_create(rows)
    ours = [row.pk for row in sorted(rows, key=lambda row: (row.created, row.pk))]
    whole = list(movements.unposted())
    assert [movement_id for movement_id in whole if movement_id in ours] == ours

    monkeypatch.setattr(movements, "PAGE", 2)
    assert list(movements.unposted()) == whole
    for movement_id in movements.unposted():
        if movement_id in ours:
            movements.post(movement_id)
    assert list(movements.unposted()) == [movement_id for movement_id in whole if movement_id not in ours]


def test_the_command_reads_to_the_end_and_tells_the_difference(simulator: StripeSimulator) -> None:
    payment = paid(simulator)
    told = StringIO()
    call_command("reconcile_stripe", "--all", stdout=told)
    assert "payment_intents: 1 from 2011-01-01 00:00 to" in told.getvalue()
    assert "simulated_clearing: Stripe $" in told.getvalue()
    payment.refresh_from_db()
    assert payment.transfer
    simulator.control("calls", kind="rate_limit", path="GET /v1/events")
    with pytest.raises(CommandError, match="events: Unavailable: RateLimitError"):
        call_command("reconcile_stripe", stdout=told)


def test_the_command_says_where_there_is_no_key() -> None:
    with pytest.raises(CommandError, match="STRIPE_SECRET_KEY is empty"):
        call_command("reconcile_stripe")


def test_the_page_shows_both_sides_and_what_differs(simulator: StripeSimulator) -> None:
    movement("adjustment", amount=100, posted_at=clock.now(), created=datetime(2026, 1, 2, tzinfo=UTC)).save()
    paid(simulator)
    run()
    content = people.superuser().get(PAGE).content.decode()
    for words in ("Money of tests", "At Stripe", "In the books", "to explain", "Only Stripe has it", "adjustment"):
        assert words in content
    cursor = StripeCursor.objects.get(list="events", livemode=False)
    assert f"{cursor.read_at:%Y-%m-%d %H:%M}" in content


def test_the_page_is_for_those_who_may_see_balance_transactions() -> None:
    account, _ = people.customer("alice")
    assert Client().get(PAGE).status_code == 302
    assert people.owner_of(account).get(PAGE, follow=True).status_code == 403
    staff = User.objects.create_user(f"{factories.unique('new')}@example.test", is_staff=True)
    assert people.signed_in(staff).get(PAGE).status_code == 403
    assert people.superuser().post(PAGE).status_code == 405
    assert "Stripe and the books" in people.superuser().get("/admin/").content.decode()
