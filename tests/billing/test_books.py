"""The proof can fail: for each promise something that breaks it, found by the full and by the incremental check.

What breaks the books is planted in a transaction that is rolled back, past triggers and foreign keys.
"""

from __future__ import annotations

import pytest
from django.db import connection

from accounts.models import Account
from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import SpendPeriod
from billing import books, books_sql, ledger
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.django_db


@pytest.fixture
def account() -> Account:
    """A wallet with a bit of everything: a credit, settled and free calls, a call that runs under a spend cap, a
    refund under way."""
    account = factories.funded(1000)
    for charge in (10, 20, 0):
        factories.recorded(account, charge, amount=50)
    ledger.settle(account_id=account.pk)
    keys.set_spend_cap(key=account.api_keys.get(), cap=SpendCap(500, SpendPeriod.MONTH))
    factories.held(factories.ask(account, 100))
    factories.refund_hold(account, 50)
    return account


def plant(statement: str, account: Account) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL session_replication_role = replica")
        cursor.execute(statement, {"wallet": account.pk})
        cursor.execute("SET LOCAL session_replication_role = origin")


def promises_broken(*, full: bool) -> set[str]:
    return set(stage.broken(books.look(full=full)))


def prove(account: Account) -> None:
    """As `books.check` remembers, for one wallet, on this connection."""
    wallet = stage.wallet_of(account)
    with connection.cursor() as cursor:
        proved = {"accounts": [account.pk], "seqs": [wallet.seq], "balances": [wallet.posted]}
        cursor.execute(books_sql.REMEMBER, proved)


BUDGET_WITH = (
    "UPDATE billing_keybudget SET {} WHERE line_id IN (SELECT id FROM apikeys_apikey WHERE account_id = %(wallet)s)"
)
BREAKS = {
    "P1: a balance that no transfer explains": "UPDATE billing_wallet SET posted = posted + 1"
    " WHERE account_id = %(wallet)s",
    "P1: an amount changed afterwards": "UPDATE billing_transfer SET amount = amount + 1"
    " WHERE wallet_id = %(wallet)s AND kind = 'usage'",
    "P1: a balance_after that does not follow": "UPDATE billing_transfer SET balance_after = 5"
    " WHERE wallet_id = %(wallet)s AND kind = 'usage'",
    "P1: a transfer lost": "DELETE FROM billing_transfer"
    " WHERE wallet_id = %(wallet)s AND kind = 'usage'",
    "P1: a gap in wallet_seq": "UPDATE billing_transfer SET wallet_seq = 9"
    " WHERE wallet_id = %(wallet)s AND kind = 'usage'",
    "P1: a wallet that forgot its last transfer": "UPDATE billing_wallet SET seq = seq - 1, posted = posted + 30"
    " WHERE account_id = %(wallet)s",
    "P1: a transfer that the wallet does not know": "INSERT INTO billing_transfer"
    " (kind, debit, credit, amount, cause, day, wallet_id, wallet_seq, balance_after, reason)"
    " VALUES ('adjustment', 'adjustments', 'wallet', 5, 'forged', now(), %(wallet)s, 99, 5, '')",
    "P2: too much held": "UPDATE billing_wallet SET held = held + 1 WHERE account_id = %(wallet)s",
    "P2: a hold lost": "DELETE FROM billing_hold WHERE account_id = %(wallet)s",
    "P2: the hold of a refund lost": "DELETE FROM billing_refundhold WHERE wallet_id = %(wallet)s",
    "P2: a refund that holds too much": "UPDATE billing_refundhold SET amount = 51 WHERE wallet_id = %(wallet)s",
    "P3: a record changed afterwards": "UPDATE billing_usagerecord SET charge = charge + 1"
    " WHERE account_id = %(wallet)s AND charge = 10",
    "P3: a record lost": "DELETE FROM billing_usagerecord WHERE account_id = %(wallet)s AND charge = 10",
    "P3: all records of a transfer lost": "DELETE FROM billing_usagerecord WHERE account_id = %(wallet)s",
    "P3: a record of another day": "UPDATE billing_usagerecord SET admitted_at = admitted_at - interval '1 day'"
    " WHERE account_id = %(wallet)s AND charge = 10",
    "P3: a record of another account": "UPDATE billing_usagerecord SET account_id = -1"
    " WHERE account_id = %(wallet)s AND charge = 10",
    "P4: a lot that has more than the wallet": "UPDATE billing_creditlot SET remaining = remaining + 1"
    " WHERE wallet_id = %(wallet)s",
    "P4: a lot lost": "DELETE FROM billing_creditlot WHERE wallet_id = %(wallet)s",
    "P4: a debt that nobody made": "UPDATE billing_wallet SET debt = 1 WHERE account_id = %(wallet)s",
    "P5: no primary key": "ALTER TABLE billing_usagerecord DROP CONSTRAINT billing_usagerecord_pkey",
    "P5: a primary key of more than the id": "ALTER TABLE billing_usagerecord DROP CONSTRAINT billing_usagerecord_pkey;"
    " ALTER TABLE billing_usagerecord ADD PRIMARY KEY (id, account_id)",
    "P6: no check on admissions": "ALTER TABLE billing_hold DROP CONSTRAINT hold_available_after_not_negative",
    "P6: an admission below zero": "ALTER TABLE billing_hold DROP CONSTRAINT hold_available_after_not_negative;"
    " UPDATE billing_hold SET available_after = -1 WHERE account_id = %(wallet)s",
    "P6: a check that was never proved": "ALTER TABLE billing_hold DROP CONSTRAINT hold_available_after_not_negative,"
    " ADD CONSTRAINT hold_available_after_not_negative CHECK (available_after >= 0) NOT VALID",
    "P6: no check on admissions by cap": "ALTER TABLE billing_hold DROP CONSTRAINT hold_budget_left_after_not_negative",
    "P6: an admission beyond a cap": "ALTER TABLE billing_hold DROP CONSTRAINT hold_budget_left_after_not_negative;"
    " UPDATE billing_hold SET budget_left_after = -1 WHERE account_id = %(wallet)s",
    "P7: a hold that ended in nothing": "DELETE FROM billing_hold WHERE account_id = %(wallet)s",
    "P7: a hold that was never opened": "UPDATE billing_wallet SET holds_recorded = holds_recorded + 1"
    " WHERE account_id = %(wallet)s",
    "P8: a roll-up of too many calls": "UPDATE billing_usagehour SET calls = calls + 1 WHERE account_id = %(wallet)s",
    "P8: a roll-up of too much money": "UPDATE billing_usagehour SET charge = charge + 1"
    " WHERE account_id = %(wallet)s",
    "P8: a roll-up of too few tokens": "UPDATE billing_usagehour SET output_tokens = 0"
    " WHERE account_id = %(wallet)s",
    "P8: a roll-up lost": "DELETE FROM billing_usagehour WHERE account_id = %(wallet)s",
    "P9: a budget that holds too much": BUDGET_WITH.format("held = held + 1"),
    "P9: a budget that forgot a call that runs": BUDGET_WITH.format("held = 0"),
    "P9: a hold that is counted in no budget": "UPDATE billing_hold SET budget_id = NULL, budget_left_after = NULL"
    " WHERE account_id = %(wallet)s",
    "P9: a budget that spent too little": BUDGET_WITH.format("spent = spent - 1"),
}  # fmt: skip

# Only the full check reads what no transfer points to.
FULL_ONLY = {
    "P3: settled and never charged": "ALTER TABLE billing_usagerecord DROP CONSTRAINT usage_settled_has_transfer;"
    " UPDATE billing_usagerecord SET transfer_id = NULL"
    " WHERE account_id = %(wallet)s AND charge = 10",
    "P7: a settled record without its hold": "UPDATE billing_usagerecord SET settled_at = NULL, transfer_id = NULL"
    " WHERE account_id = %(wallet)s AND charge = 0",
    "P7: a release that was not counted": "UPDATE billing_wallet"
    " SET holds_released = 1, holds_opened = holds_opened + 1 WHERE account_id = %(wallet)s",
    "P9: a budget that spent too much": BUDGET_WITH.format("spent = spent + 1"),
    "P9: a budget of another month": BUDGET_WITH.format("starts_at = starts_at - interval '1 month'"),
    "P9: a budget of another line": "UPDATE apikeys_apikey SET first_id = -1 WHERE account_id = %(wallet)s",
}


@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
def test_sound_books_break_no_promise(account: Account, full: bool) -> None:
    assert promises_broken(full=full) == set()


@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
@pytest.mark.parametrize("fault", BREAKS)
def test_what_breaks_a_promise_is_found(account: Account, fault: str, full: bool) -> None:
    plant(BREAKS[fault], account)
    assert fault[:2] in promises_broken(full=full)


@pytest.mark.parametrize("fault", FULL_ONLY)
def test_what_no_new_transfer_points_to_is_found_by_the_full_check(account: Account, fault: str) -> None:
    prove(account)
    plant(FULL_ONLY[fault], account)
    assert fault[:2] in promises_broken(full=True)


@pytest.mark.parametrize(
    ("fault", "promises"),
    [
        ("P1: an amount changed afterwards", {"P1", "P3"}),
        ("P3: a record changed afterwards", {"P3", "P8"}),
        ("P8: a roll-up lost", {"P8"}),
    ],
)
def test_the_incremental_check_starts_where_the_last_proof_ended(
    account: Account, fault: str, promises: set[str]
) -> None:
    prove(account)
    plant(BREAKS[fault], account)
    assert promises_broken(full=False) == set()
    assert promises <= promises_broken(full=True)


def test_the_incremental_check_finds_what_came_after_the_last_proof(account: Account) -> None:
    prove(account)
    factories.recorded(account, 40)
    ledger.settle(account_id=account.pk)
    assert promises_broken(full=False) == set()

    plant("UPDATE billing_transfer SET amount = 41 WHERE wallet_id = %(wallet)s AND amount = 40", account)
    assert promises_broken(full=False) == {"P1", "P3"}


def test_the_incremental_check_notices_a_balance_that_moved_without_a_transfer(account: Account) -> None:
    prove(account)
    plant("UPDATE billing_wallet SET posted = posted + 1 WHERE account_id = %(wallet)s", account)
    assert "P1" in promises_broken(full=False)


def test_the_incremental_check_notices_a_transfer_that_a_wallet_at_rest_does_not_know(account: Account) -> None:
    prove(account)
    plant(BREAKS["P1: a transfer that the wallet does not know"], account)
    assert promises_broken(full=False) == {"P1"}


def test_a_finding_counts_all_and_shows_the_first(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "SHOWN", 2)
    for _ in range(5):
        plant("UPDATE billing_wallet SET held = 1 WHERE account_id = %(wallet)s", factories.funded(1))
    [finding] = [finding for finding in books.look(full=True) if finding.broken]
    assert (finding.promise.name, finding.broken, len(finding.examples)) == ("P2", 5, 2)
