"""Settlement at the same time as everything else, and killed in the middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
import pytest
from django.db import OperationalError, connection, transaction

from accounts.models import Account
from billing import holds, ledger, ledger_sql
from billing.models import Hold, Transfer, UsageRecord
from tests import factories
from tests.billing import processes, stage

pytestmark = pytest.mark.usefixtures("committed")


def settle_all(account_ids: Iterable[int]) -> int:
    """As `settlement.settle_accounts`, but no fault stays hidden."""
    calls = 0
    for account_id in account_ids:
        while batch := ledger.settle(account_id=account_id).calls:
            calls += batch
    return calls


def assert_charged_once(accounts: list[Account], *, credited: int, charges: int) -> None:
    for account in accounts:
        wallet = stage.wallet_of(account)
        assert (wallet.posted, wallet.held) == (credited - charges, 0)
        assert sum(Transfer.objects.filter(wallet=wallet, kind="usage").values_list("amount", flat=True)) == charges
        assert UsageRecord.objects.filter(account=account, settled_at=None).count() == 0
    stage.assert_books_hold()


def test_four_settlers_of_overlapping_wallets_charge_every_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SETTLEMENT_BATCH", 5)
    accounts = [factories.funded(1000) for _ in range(4)]
    for account in accounts:
        stage.admitted_and_recorded(account, range(1, 31))
    ids = [account.pk for account in accounts]

    settled = stage.at_the_same_time(*[partial(settle_all, ids[start:] + ids[:start]) for start in range(4)])

    assert sum(settled) == 120
    assert_charged_once(accounts, credited=1000, charges=465)


def test_a_settler_killed_in_the_middle_of_its_statement_leaves_nothing_half_done() -> None:
    account = factories.funded(100)
    stage.admitted_and_recorded(account, [10, 20])
    with stage.another_connection() as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])
        with processes.settler([account.pk], seed=1):
            stage.wait_until_blocked_by(other)  # All is done but the wallet row, which comes last.
    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.seq) == (100, 30, 1)
    stage.assert_books_hold()

    assert settle_all([account.pk]) == 2
    assert_charged_once([account], credited=100, charges=30)


def test_settling_sees_a_call_that_was_admitted_while_it_waited_for_the_wallet_row() -> None:
    account = factories.funded(100)
    stage.admitted_and_recorded(account, [30])
    with stage.another_connection() as other:
        other.execute(ledger_sql.RESERVE_WAITING, [msgspec.json.encode([factories.ask(account, 60)]).decode()])

        def commit_theirs() -> None:
            stage.wait_until_blocked_by(other)
            other.commit()

        [settled, _] = stage.at_the_same_time(partial(settle_all, [account.pk]), commit_theirs)

    assert settled == 1
    wallet = stage.wallet_of(account)
    assert (wallet.posted, wallet.held, wallet.holds_opened, wallet.holds_recorded) == (70, 60, 2, 1)
    stage.assert_books_hold()


@pytest.mark.parametrize("move", ["settle", "credit", "debit", "expire", "hold", "release", "pay back"])
def test_whoever_moves_a_balance_waits_for_the_lock_of_the_wallet(move: str) -> None:
    account = factories.funded(100)
    promotion = factories.promotion(account, 10, expires_at=factories.moment_of(factories.ask(account, 1).id))
    refund = factories.refund_hold(account, 10)
    moves: dict[str, Callable[[], object]] = {
        "settle": lambda: ledger.settle(account_id=account.pk),
        "credit": lambda: factories.credit(account, 10),
        "debit": lambda: factories.debit(account, 10),
        "expire": lambda: ledger.expire_lots(account_id=account.pk, now=promotion.created_at),
        "hold": lambda: factories.refund_hold(account, 10),
        "release": lambda: ledger.release_refund(id=refund),
        "pay back": lambda: factories.pay_back(account, 10, hold=refund),
    }
    with stage.another_connection() as other:
        other.execute(ledger_sql.LOCK_WALLET, [account.pk])
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(OperationalError, match="lock timeout"):
                moves[move]()
    assert stage.wallet_of(account).posted == 110


def test_calls_credits_debits_and_settlements_at_the_same_time_keep_the_books() -> None:
    accounts = [factories.funded(200) for _ in range(3)]
    ids = [account.pk for account in accounts]
    served: Counter[int] = Counter()

    def gateway() -> None:
        for charge in range(1, 13):
            asks = [factories.ask(account, charge + 5) for account in accounts]
            running = [ask for ask, answer in zip(asks, stage.reserve(*asks), strict=True) if answer.admitted]
            stage.checkpoint(*(holds.Checkpoint(ask.id, "demo", 1, 1, 1) for ask in running))
            failed, answered = running[:1], running[1:]
            stage.record(*(factories.record(ask, charge) for ask in answered))
            stage.release(*(ask.id for ask in failed))
            served.update({ask.account_id: charge for ask in answered})

    def settler() -> None:
        for _ in range(20):
            settle_all(ids)

    def operator() -> None:
        for _ in range(6):
            for account in accounts:
                factories.credit(account, 7)
                factories.debit(account, 2)

    done = stage.at_the_same_time(gateway, gateway, settler, settler, operator)
    assert done == [None] * 5
    settle_all(ids)

    for account in accounts:
        wallet = stage.wallet_of(account)
        assert (wallet.posted, wallet.held) == (200 + 6 * 5 - served[account.pk], 0)
        assert Hold.objects.filter(account_id=account.pk).count() == 0
    stage.assert_books_hold()


def test_a_checkpoint_never_waits_for_a_hold_that_is_being_settled() -> None:
    account = factories.funded(100)
    settling, running = (factories.ask(account, 10) for _ in range(2))
    stage.admitted(settling, running)
    with stage.another_connection() as other:
        other.execute("DELETE FROM billing_hold WHERE id = %s", [settling.id])

        stage.checkpoint(*(holds.Checkpoint(ask.id, "demo", 2, 3, 4) for ask in (settling, running)))

        other.rollback()
    points = Hold.objects.filter(account_id=account.pk).order_by("id").values_list("id", "checkpoint_output_tokens")
    assert dict(points) == {settling.id: None, running.id: 4}
