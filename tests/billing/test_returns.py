"""What goes back of a payment, split into what the wallet loses and what is owed to the tax office no more."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from itertools import permutations
from uuid import UUID

import pytest

from accounts.models import Account
from billing import ledger, money
from billing.models import Payment, Transfer, TransferKind
from billing.payments import returns
from tests import factories
from tests.billing import papers, stage


@pytest.fixture
def account(db: None) -> Account:
    return factories.account()


def taxed(account: Account) -> Payment:
    """10.00 USD, and 1.90 USD of tax."""
    return papers.paid(account, 1000, tax=190)


def move(payment: Payment, cents: int, *, cause: str = "", hold: UUID | None = None) -> Transfer | None:
    return returns.move(
        payment, cents, kind=TransferKind.REFUND, cause=cause or factories.unique(f"return:{payment.pk}:"),
        now=datetime.now(UTC), hold=hold,
    )  # fmt: skip


def wallet_cents(account: Account) -> int:
    return stage.wallet_of(account).posted // money.PICO_PER_CENT


def tax_returned(payment: Payment) -> int:
    """In cents, by the transfers."""
    posted = Transfer.objects.filter(kind=TransferKind.TAX, cause__startswith=f"return:{payment.pk}:")
    signed = (transfer.amount if transfer.debit == "tax_payable" else -transfer.amount for transfer in posted)
    return sum(signed) // money.PICO_PER_CENT


def test_a_return_takes_the_net_from_the_wallet_and_the_tax_from_what_is_owed(account: Account) -> None:
    payment = taxed(account)

    moved = move(payment, 1190)

    assert moved is not None
    assert (moved.debit, moved.credit, moved.amount) == ("wallet", "simulated_clearing", 1000 * money.PICO_PER_CENT)
    assert (wallet_cents(account), tax_returned(payment)) == (0, 190)
    payment.refresh_from_db()
    assert (payment.returned_cents, payment.returned_tax_cents) == (1190, 190)
    stage.assert_books_hold()


@pytest.mark.parametrize("parts", [*permutations([1, 333, 856]), tuple([119] * 10), (1189, 1)])
def test_parts_add_up_to_the_cent_in_any_order(account: Account, parts: tuple[int, ...]) -> None:
    payment = taxed(account)

    for part in parts:
        move(payment, part)

    assert (wallet_cents(account), tax_returned(payment)) == (0, 190)


def test_what_comes_back_is_split_as_if_it_had_never_gone(account: Account) -> None:
    payment = taxed(account)

    move(payment, 333)
    move(payment, 100)
    move(payment, -333)

    payment.refresh_from_db()
    assert (payment.returned_cents, payment.returned_tax_cents) == (100, 15)
    assert (wallet_cents(account), tax_returned(payment)) == (915, 15)
    assert stage.lots_of(account) == [("paid", 636 * money.PICO_PER_CENT), ("paid", 279 * money.PICO_PER_CENT)]
    stage.assert_books_hold()


def test_a_cent_that_is_all_tax_leaves_the_wallet_alone(account: Account) -> None:
    payment = papers.paid(account, 10, tax=10)

    assert move(payment, 1) is not None
    hold = factories.refund_hold(account, money.PICO_PER_CENT)
    assert move(payment, 1, hold=hold) is None

    assert (wallet_cents(account), tax_returned(payment), stage.wallet_of(account).held) == (9, 1, 0)


def test_a_dispute_after_a_refund_gives_no_more_tax_back_than_was_paid(account: Account) -> None:
    payment = taxed(account)

    move(payment, 500)
    move(payment, 1190)

    assert tax_returned(payment) == 190
    assert (wallet_cents(account), stage.wallet_of(account).debt) == (-500, 500 * money.PICO_PER_CENT)
    stage.assert_books_hold()


def test_the_same_cause_moves_once_and_never_another_sum(account: Account) -> None:
    payment, cause = taxed(account), factories.unique("stripe:re")

    first = move(payment, 100, cause=cause)
    hold = factories.refund_hold(account, 5)
    assert move(payment, 100, cause=cause, hold=hold) == first

    assert (wallet_cents(account), stage.wallet_of(account).held) == (915, 0)
    with pytest.raises(ledger.CauseReused):
        move(payment, 101, cause=cause)


def test_nothing_goes_back_of_what_was_not_paid(account: Account) -> None:
    with pytest.raises(returns.NotPaid):
        move(papers.payment(account), 100)


@pytest.mark.usefixtures("committed")
def test_returns_at_the_same_time_share_the_tax_to_the_cent() -> None:
    account = factories.account()
    payment, cause = taxed(account), factories.unique("stripe:re")
    again = [partial(move, payment, 119, cause=cause)] * 3

    done = stage.at_the_same_time(*[partial(move, payment, 119)] * 9, *again)

    assert not [result for result in done if isinstance(result, Exception)]
    payment.refresh_from_db()
    assert (payment.returned_cents, payment.returned_tax_cents, wallet_cents(account)) == (1190, 190, 0)
    stage.assert_books_hold()
