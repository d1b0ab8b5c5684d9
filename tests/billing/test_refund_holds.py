"""What goes back to a card, as the ledger sees it: once, twice, at the same time, and killed in the middle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import IntegrityError, transaction

from accounts.models import Account
from billing import ledger, ledger_sql
from billing.models import LedgerAccount, RefundHold, Transfer, TransferKind
from tests import factories
from tests.billing import processes, stage


@pytest.fixture
def account(db: None) -> Account:
    return factories.funded(100)


def refundable(account: Account, *, now: datetime | None = None) -> int:
    return ledger.refundable(account_id=account.pk, now=now or datetime.now(UTC))


def balance(account: Account) -> tuple[int, int, int]:
    wallet = stage.wallet_of(account)
    return wallet.posted, wallet.held, wallet.debt


def fail_refund(account: Account, amount: int, *, cause: str) -> Transfer:
    source = LedgerAccount.SIMULATED_CLEARING
    return factories.credit(account, amount, kind=TransferKind.REFUND, source=source, cause=cause)


def test_what_is_held_for_a_refund_cannot_be_spent_nor_refunded_again(account: Account) -> None:
    factories.refund_hold(account, 70)

    assert (stage.wallet_of(account).available, refundable(account)) == (30, 30)
    with pytest.raises(ledger.InsufficientBalance):
        factories.refund_hold(account, 31)
    with pytest.raises(ledger.InsufficientBalance):
        factories.debit(account, 31)
    assert balance(account) == (100, 70, 0)
    stage.assert_books_hold()


def test_a_refund_takes_all_paid_money_that_is_free_and_not_a_pico_more(account: Account) -> None:
    factories.promotion(account, 50, expires_at=None)
    factories.held(factories.ask(account, 60))  # Of which the promotion may pay 50, but no more.

    assert refundable(account) == 90
    with pytest.raises(ledger.InsufficientBalance):
        factories.refund_hold(account, 91)
    assert not RefundHold.objects.filter(wallet_id=account.pk).exists()
    factories.refund_hold(account, 90)
    stage.assert_books_hold()


def test_promotional_credit_is_never_refunded(account: Account) -> None:
    factories.promotion(account, 50, expires_at=None)
    assert refundable(account) == 100
    with pytest.raises(ledger.InsufficientBalance):
        factories.refund_hold(account, 101)


def test_credit_whose_time_is_over_leaves_the_calls_that_run_to_paid_money(account: Account) -> None:
    now = datetime.now(UTC)
    factories.promotion(account, 50, expires_at=now)
    factories.held(factories.ask(account, 60))

    assert [refundable(account, now=now + timedelta(seconds=step)) for step in (-1, 0)] == [90, 40]
    with pytest.raises(ledger.InsufficientBalance):
        factories.refund_hold(account, 41, now=now)
    factories.refund_hold(account, 40, now=now)


def test_an_account_without_a_wallet_has_nothing_to_refund(db: None) -> None:
    account = factories.account()
    assert refundable(account) == 0
    with pytest.raises(ledger.InsufficientBalance):
        factories.refund_hold(account, 1)


@pytest.mark.parametrize("amount", [0, -1])
def test_only_a_positive_amount_is_held_or_paid_back(account: Account, amount: int) -> None:
    for move in (factories.refund_hold, factories.pay_back):
        with pytest.raises(ledger.InvalidTransfer):
            move(account, amount)
    assert balance(account) == (100, 0, 0)


def test_the_same_refund_holds_once(account: Account) -> None:
    refund = factories.refund_hold(account, 10)
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.hold_refund(id=refund, account=account, amount=10, now=datetime.now(UTC))
    assert balance(account) == (100, 10, 0)
    stage.assert_books_hold()


def test_a_refund_that_is_given_up_gives_back_once(account: Account) -> None:
    refund = factories.refund_hold(account, 10)
    assert [ledger.release_refund(id=refund), ledger.release_refund(id=refund)] == [True, False]
    assert ledger.release_refund(id=uuid4()) is False
    assert balance(account) == (100, 0, 0)
    stage.assert_books_hold()


def test_a_refund_is_posted_once_and_its_hold_is_gone(account: Account) -> None:
    refund = factories.refund_hold(account, 10)
    post = partial(factories.pay_back, account, 10, hold=refund, cause="stripe:re:1")

    first = post()

    assert (first.kind, first.debit, first.credit) == ("refund", "wallet", "simulated_clearing")
    assert post() == first
    assert ledger.release_refund(id=refund) is False
    assert balance(account) == (90, 0, 0)
    stage.assert_books_hold()


def test_a_refund_that_was_posted_without_its_hold_still_ends_it(account: Account) -> None:
    refund = factories.refund_hold(account, 10)
    first = factories.pay_back(account, 10, cause="stripe:re:1")
    assert factories.pay_back(account, 10, cause="stripe:re:1", hold=refund) == first
    assert balance(account) == (90, 0, 0)
    stage.assert_books_hold()


def test_the_lot_of_the_payment_is_burned_first_and_then_the_oldest_paid_one(account: Account) -> None:
    payment = factories.credit(account, 20)
    factories.promotion(account, 50, expires_at=None)
    factories.credit(account, 5)

    factories.pay_back(account, 30, credited=payment)
    assert stage.lots_of(account) == [("paid", 90), ("paid", 0), ("promotional", 50), ("paid", 5)]
    factories.pay_back(account, 30)
    assert stage.lots_of(account) == [("paid", 60), ("paid", 0), ("promotional", 50), ("paid", 5)]
    stage.assert_books_hold()


@pytest.mark.parametrize("kind", [TransferKind.REFUND, TransferKind.DISPUTE])
def test_what_no_paid_money_covers_becomes_debt_and_blocks_calls(account: Account, kind: TransferKind) -> None:
    factories.held(factories.ask(account, 60))
    factories.pay_back(account, 130, kind=kind)

    assert balance(account) == (-30, 60, 30)
    assert refundable(account) == 0
    with pytest.raises(ledger.InsufficientBalance):
        factories.debit(account, 1)
    stage.assert_books_hold()


def test_the_next_payment_pays_off_what_a_dispute_left(account: Account) -> None:
    factories.pay_back(account, 130, kind=TransferKind.DISPUTE)
    factories.credit(account, 50)
    assert balance(account) == (20, 0, 0)
    assert stage.lots_of(account) == [("paid", 0), ("paid", 20)]
    stage.assert_books_hold()


def test_a_refund_that_failed_comes_back_as_paid_money_once(account: Account) -> None:
    factories.pay_back(account, 40, cause="stripe:re:1")
    first = fail_refund(account, 40, cause="stripe:re:1:failed")
    assert fail_refund(account, 40, cause="stripe:re:1:failed") == first

    assert balance(account) == (100, 0, 0)
    assert stage.lots_of(account) == [("paid", 60), ("paid", 40)]
    assert refundable(account) == 100
    stage.assert_books_hold()


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_eight_refunds_never_hold_more_than_there_is(self) -> None:
        account = factories.funded(50)

        done = stage.at_the_same_time(*[partial(factories.refund_hold, account, 15) for _ in range(8)])

        assert sum(isinstance(result, UUID) for result in done) == 3
        assert sum(isinstance(result, ledger.InsufficientBalance) for result in done) == 5
        assert balance(account) == (50, 45, 0)
        stage.assert_books_hold()

    def test_refunds_and_calls_never_take_the_same_money(self) -> None:
        account = factories.funded(80)
        calls = [partial(stage.reserve, factories.ask(account, 20)) for _ in range(4)]

        done = stage.at_the_same_time(*[partial(factories.refund_hold, account, 20)] * 4, *calls)

        refunds = sum(isinstance(result, UUID) for result in done)
        admitted = sum(isinstance(result, list) and result[0].admitted for result in done)
        assert refunds + admitted == 4
        assert stage.wallet_of(account).available == 0
        stage.assert_books_hold()

    def test_a_refund_yields_to_a_call_admitted_at_the_same_moment(self) -> None:
        account = factories.funded(50)
        call = factories.ask(account, 20)
        with stage.another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])

            def admit_theirs() -> None:
                stage.wait_until_blocked_by(other)  # It has read the lots, and waits to move the wallet.
                other.execute(ledger_sql.RESERVE_WAITING, [msgspec.json.encode([call]).decode()])
                other.commit()

            [refused, _] = stage.at_the_same_time(partial(factories.refund_hold, account, 31), admit_theirs)

        assert isinstance(refused, ledger.InsufficientBalance)
        assert balance(account) == (50, 20, 0)
        stage.assert_books_hold()

    def test_eight_postings_of_a_refund_move_once(self) -> None:
        account, cause = factories.funded(50), factories.unique("stripe:re")
        refund = factories.refund_hold(account, 15)
        post = partial(factories.pay_back, account, 15, hold=refund, cause=cause)

        transfers = stage.at_the_same_time(*[post] * 8)

        assert len({transfer.pk for transfer in transfers}) == 1
        assert balance(account) == (35, 0, 0)
        stage.assert_books_hold()

    def test_eight_releases_of_a_refund_give_back_once(self) -> None:
        account = factories.funded(50)
        refund = factories.refund_hold(account, 15)

        released = stage.at_the_same_time(*[partial(ledger.release_refund, id=refund)] * 8)

        assert sorted(released) == [False] * 7 + [True]
        assert balance(account) == (50, 0, 0)
        stage.assert_books_hold()

    def test_refunds_killed_at_random_moments_leave_nothing_half_done(self) -> None:
        account, word = factories.funded(600), factories.unique("kill")
        causes = [f"{word}:{number}" for number in range(60)]

        for seed in range(8):
            processes.kill_at_random(processes.refund_for_ever, account.pk, causes, seed=seed, seconds=0.05)
            stage.assert_books_hold()
        for hold in RefundHold.objects.filter(wallet_id=account.pk):
            ledger.release_refund(id=hold.pk)
        for cause in causes:
            factories.pay_back(account, 10, cause=cause)

        assert balance(account) == (0, 0, 0)
        assert stage.wallet_of(account).seq == 61
        stage.assert_books_hold()
