"""Credits, debits and expiries: once, twice, at the same time, and killed in the middle."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from django.db import IntegrityError

from accounts.models import Account
from billing import clock, ledger, ledger_sql, settlement
from billing.models import LedgerAccount, Transfer, TransferKind
from billing.models.wallets import SIDES
from tests import factories
from tests.billing import processes, stage

SECOND = timedelta(seconds=1)


@pytest.fixture
def account(db: None) -> Account:
    return factories.funded(100)


def test_a_credit_makes_the_wallet_its_transfer_and_its_lot(db: None) -> None:
    account = factories.account()
    moment = datetime(2026, 11, 20, 23, 30, tzinfo=UTC).astimezone(tz=None)

    transfer = factories.credit(account, 10, now=moment, reason="a gift")

    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.debt, wallet.seq) == (10, 0, 0, 1)
    assert (transfer.wallet_seq, transfer.balance_after, str(transfer.day)) == (1, 10, "2026-11-20")
    assert stage.lots_of(account) == [("paid", 10)]
    stage.assert_books_hold()


def test_the_same_cause_credits_once(account: Account) -> None:
    first = factories.credit(account, 10, cause="topup:1")
    assert factories.credit(account, 10, cause="topup:1") == first
    assert stage.wallet_of(account).posted == 110
    stage.assert_books_hold()


def test_the_same_cause_debits_once(account: Account) -> None:
    first = factories.debit(account, 10, cause="refund:1")
    assert factories.debit(account, 10, cause="refund:1") == first
    assert stage.wallet_of(account).posted == 90
    stage.assert_books_hold()


def test_a_cause_is_not_used_again_for_another_amount_wallet_or_direction(account: Account) -> None:
    factories.credit(account, 10, cause="topup:1")
    other = factories.funded(100)

    for reuse in (
        partial(factories.credit, account, 11),
        partial(factories.credit, other, 10),
        partial(factories.debit, account, 10),
        partial(factories.promotion, account, 10, expires_at=None),
    ):
        with pytest.raises(ledger.CauseReused, match="'topup:1' already moved 10 pico-USD"):
            reuse(cause="topup:1")
    assert (stage.wallet_of(account).posted, stage.wallet_of(other).posted) == (110, 100)


@pytest.mark.parametrize("amount", [0, -1])
def test_only_positive_amounts_are_moved(account: Account, amount: int) -> None:
    for move in (factories.credit, factories.debit):
        with pytest.raises(ledger.InvalidTransfer):
            move(account, amount)


def test_a_debit_burns_promotional_credit_first(account: Account) -> None:
    factories.promotion(account, 10, expires_at=datetime.now(UTC) + SECOND * 60)
    factories.debit(account, 15)
    assert stage.lots_of(account) == [("paid", 95), ("promotional", 0)]
    stage.assert_books_hold()


def test_a_debit_takes_all_that_is_free_and_not_a_pico_of_what_holds_cover(account: Account) -> None:
    factories.held(factories.ask(account, 30))

    with pytest.raises(ledger.InsufficientBalance):
        factories.debit(account, 71)
    assert stage.wallet_of(account).seq == 1
    factories.debit(account, 70)

    assert stage.wallet_of(account).available == 0
    stage.assert_books_hold()


def test_a_debit_does_not_take_credit_whose_time_is_over(account: Account) -> None:
    now = datetime.now(UTC)
    factories.promotion(account, 10, expires_at=now)

    with pytest.raises(ledger.InsufficientBalance):
        factories.debit(account, 101, now=now)
    factories.debit(account, 100, now=now)

    assert stage.lots_of(account) == [("paid", 0), ("promotional", 10)]
    stage.assert_books_hold()


def test_a_debit_from_an_account_without_a_wallet_is_refused(db: None) -> None:
    with pytest.raises(ledger.InsufficientBalance):
        factories.debit(factories.account(), 1)


def test_credit_expires_at_its_moment_and_only_once(account: Account) -> None:
    now = datetime.now(UTC)
    factories.promotion(account, 10, expires_at=now)
    factories.promotion(account, 20, expires_at=now + SECOND)
    factories.promotion(account, 30, expires_at=None)

    assert ledger.expire_lots(account_id=account.pk, now=now - SECOND) == 0
    assert [settlement.expire_credit(now=now) for _ in range(2)] == [10, 0]
    assert [settlement.expire_credit(now=now + SECOND) for _ in range(2)] == [20, 0]

    assert stage.lots_of(account) == [("paid", 100), ("promotional", 0), ("promotional", 0), ("promotional", 30)]
    assert Transfer.objects.filter(kind="expiry", wallet_id=account.pk).count() == 2
    stage.assert_books_hold()


def test_expiry_leaves_what_holds_cover_and_takes_it_when_they_have_ended(db: None) -> None:
    account, now = factories.account(), datetime.now(UTC)
    factories.promotion(account, 10, expires_at=now)
    factories.recorded(account, 2, amount=6, admitted_at=now - SECOND)

    assert ledger.expire_lots(account_id=account.pk, now=now) == 4
    assert ledger.expire_lots(account_id=account.pk, now=now) == 0
    ledger.settle(account_id=account.pk)
    assert ledger.expire_lots(account_id=account.pk, now=now) == 4

    assert (stage.wallet_of(account).posted, stage.wallet_of(account).debt) == (0, 0)
    stage.assert_books_hold()


def test_a_call_admitted_in_time_is_paid_by_the_promotion_whether_it_is_settled_before_or_after_expiry(
    db: None,
) -> None:
    now = datetime.now(UTC)
    left = []
    for expire_first in (True, False):
        account = factories.funded(5)
        factories.promotion(account, 10, expires_at=now)
        factories.recorded(account, 5, admitted_at=now - SECOND)
        if expire_first:
            ledger.expire_lots(account_id=account.pk, now=now)
        ledger.settle(account_id=account.pk)
        ledger.expire_lots(account_id=account.pk, now=now)
        left.append(stage.lots_of(account))

    assert left == [[("paid", 5), ("promotional", 0)]] * 2


def test_a_call_admitted_after_the_expiry_does_not_keep_the_promotion(account: Account) -> None:
    now = datetime.now(UTC)
    factories.promotion(account, 10, expires_at=now)
    factories.held(factories.ask(account, 50, admitted_at=now + SECOND))

    assert ledger.expire_lots(account_id=account.pk, now=now + SECOND) == 10


@pytest.mark.parametrize("kind", sorted(set(TransferKind.values) - {TransferKind.USAGE}))
def test_every_kind_of_transfer_that_touches_a_wallet_can_be_posted(account: Account, kind: TransferKind) -> None:
    for debit, credit in SIDES[kind]:
        if credit == LedgerAccount.WALLET:
            factories.credit(account, 5, kind=kind, source=debit)
        elif debit == LedgerAccount.WALLET:
            factories.debit(account, 5, kind=kind, target=credit)
    stage.assert_books_hold()


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_eight_credits_with_one_cause_move_once(self) -> None:
        account, cause = factories.account(), factories.unique("topup")

        transfers = stage.at_the_same_time(*[partial(factories.credit, account, 10, cause=cause)] * 8)

        assert len({transfer.pk for transfer in transfers}) == 1
        assert stage.wallet_of(account).posted == 10
        stage.assert_books_hold()

    def test_one_cause_for_two_wallets_moves_one_of_them(self) -> None:
        accounts, cause = [factories.account() for _ in range(2)], factories.unique("topup")

        done = stage.at_the_same_time(*[partial(factories.credit, account, 10, cause=cause) for account in accounts])

        assert sorted(isinstance(result, Transfer) for result in done) == [False, True]
        assert any(isinstance(result, ledger.CauseReused | IntegrityError) for result in done)
        assert Transfer.objects.filter(cause=cause).count() == 1
        stage.assert_books_hold()

    def test_eight_credits_with_their_own_causes_all_count(self) -> None:
        account = factories.account()

        transfers = stage.at_the_same_time(*[partial(factories.credit, account, 10) for _ in range(8)])

        assert sorted(transfer.balance_after for transfer in transfers) == [10, 20, 30, 40, 50, 60, 70, 80]
        assert sorted(transfer.wallet_seq for transfer in transfers) == [1, 2, 3, 4, 5, 6, 7, 8]
        stage.assert_books_hold()

    def test_eight_debits_never_take_more_than_there_is(self) -> None:
        account = factories.funded(50)

        done = stage.at_the_same_time(*[partial(factories.debit, account, 15) for _ in range(8)])

        assert sum(isinstance(result, Transfer) for result in done) == 3
        assert sum(isinstance(result, ledger.InsufficientBalance) for result in done) == 5
        assert stage.wallet_of(account).posted == 5
        stage.assert_books_hold()

    def test_debits_and_calls_never_take_the_same_money(self) -> None:
        account = factories.funded(80)
        calls = [partial(stage.reserve, factories.ask(account, 20)) for _ in range(4)]

        done = stage.at_the_same_time(*[partial(factories.debit, account, 20)] * 4, *calls)

        debits = sum(isinstance(result, Transfer) for result in done)
        admitted = sum(isinstance(result, list) and result[0].admitted for result in done)
        assert debits + admitted == 4
        assert stage.wallet_of(account).available == 0
        stage.assert_books_hold()

    def test_eight_expiries_take_a_lot_once(self) -> None:
        account, now = factories.funded(5), datetime.now(UTC)
        factories.promotion(account, 10, expires_at=now)

        taken = stage.at_the_same_time(*[partial(ledger.expire_lots, account_id=account.pk, now=now)] * 8)

        assert sorted(taken) == [0] * 7 + [10]
        assert stage.wallet_of(account).posted == 5
        stage.assert_books_hold()

    def test_expiry_yields_to_a_call_admitted_at_the_same_moment(self) -> None:
        account, now = factories.account(), datetime.now(UTC)
        factories.promotion(account, 10, expires_at=now)
        late = factories.ask(account, 8, admitted_at=now + SECOND)
        with stage.another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])

            def admit_theirs() -> None:
                stage.wait_until_blocked_by(other)  # It has read the wallet, and waits to move it.
                other.execute(ledger_sql.RESERVE_WAITING, [msgspec.json.encode([late]).decode()])
                other.commit()

            expire = partial(ledger.expire_lots, account_id=account.pk, now=now)
            [taken, _] = stage.at_the_same_time(expire, admit_theirs)

        assert taken == 0
        assert (stage.wallet_of(account).posted, stage.wallet_of(account).available) == (10, 2)
        assert ledger.expire_lots(account_id=account.pk, now=now) == 2
        stage.assert_books_hold()

    def test_credits_and_debits_killed_at_random_moments_leave_nothing_half_done(self) -> None:
        account, word = factories.account(), factories.unique("kill")
        causes = [f"{word}:{number}" for number in range(60)]

        for seed in range(8):
            processes.kill_at_random(processes.move_for_ever, account.pk, causes, seed=seed, seconds=0.05)
            stage.assert_books_hold()
        for cause in causes:
            factories.credit(account, 10, cause=f"{cause}:credit")
            factories.debit(account, 3, cause=f"{cause}:debit")

        wallet = stage.wallet_of(account)
        assert (wallet.posted, wallet.seq) == (60 * 7, 120)
        stage.assert_books_hold()


def test_usage_is_charged_by_settlement_alone(account: Account) -> None:
    with pytest.raises(ledger.InvalidTransfer, match="settlement alone"):
        factories.debit(account, 10, kind=TransferKind.USAGE, target=LedgerAccount.USAGE_REVENUE)


def a_fee(**fields: Any) -> Transfer:
    sides = {"debit": LedgerAccount.STRIPE_FEES, "credit": LedgerAccount.STRIPE_CLEARING}
    what = {"amount": 30, "kind": TransferKind.FEE, "now": clock.now()}
    return ledger.post(**{**what, **sides, **fields})


@pytest.mark.django_db
def test_what_belongs_to_no_wallet_is_posted_once() -> None:
    cause = factories.unique("fee")
    first = a_fee(cause=cause)
    assert a_fee(cause=cause) == first
    assert (first.wallet, first.wallet_seq, first.balance_after) == (None, None, None)
    others: list[dict[str, Any]] = [{"amount": 31}, {"credit": LedgerAccount.SIMULATED_CLEARING}]
    for other in others:
        with pytest.raises(ledger.CauseReused):
            a_fee(cause=cause, **other)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 0},
        {"amount": -1},
        {"kind": TransferKind.TAX},
        {"debit": LedgerAccount.BANK},
        {"kind": TransferKind.REFUND, "debit": LedgerAccount.WALLET},
        {"kind": TransferKind.USAGE, "debit": LedgerAccount.WALLET, "credit": LedgerAccount.USAGE_REVENUE},
    ],
)
def test_post_moves_no_wallet_and_nothing_between_other_accounts(wrong: dict[str, Any]) -> None:
    cause = factories.unique("fee")
    with pytest.raises(ledger.InvalidTransfer):
        a_fee(cause=cause, **wrong)
    assert not Transfer.objects.filter(cause=cause).exists()


@pytest.mark.django_db
def test_the_tax_on_what_is_refunded_goes_back_where_it_came_from() -> None:
    for clearing in (LedgerAccount.STRIPE_CLEARING, LedgerAccount.SIMULATED_CLEARING):
        back = a_fee(
            kind=TransferKind.TAX, debit=LedgerAccount.TAX_PAYABLE, credit=clearing, cause=factories.unique("tax")
        )
        assert (back.debit, back.credit) == ("tax_payable", clearing)
