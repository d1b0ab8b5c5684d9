"""The check as it is run: a snapshot of its own, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection

from accounts.models import Account
from billing import books, books_sql, ledger
from billing.models import BooksCheck
from tests import factories
from tests.billing import stage

pytestmark = pytest.mark.usefixtures("committed")


@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
def test_it_proves_every_wallet_that_moved_and_remembers_how_far(full: bool) -> None:
    account = factories.funded(100)
    stage.admitted_and_recorded(account, [10])

    assert stage.broken(books.check(full=full)) == {}
    assert proof_of(account) == (1, 100)
    ledger.settle(account_id=account.pk)
    assert stage.broken(books.check(full=full)) == {}
    assert proof_of(account) == (2, 90)


def test_checks_at_the_same_time_as_work_see_sound_books() -> None:
    account = factories.funded(10_000)

    def work() -> None:
        for charge in range(1, 15):
            stage.admitted_and_recorded(account, [charge])
            ledger.settle(account_id=account.pk)
            factories.credit(account, 5)

    def check(full: bool) -> Callable[[], list[dict[str, Any]]]:
        return lambda: [stage.broken(books.check(full=full)) for _ in range(6)]

    done = stage.at_the_same_time(work, work, check(True), check(False))
    assert done == [None, None, [{}] * 6, [{}] * 6]


def test_an_older_proof_never_replaces_a_newer_one() -> None:
    account = factories.funded(100)
    books.check(full=False)
    BooksCheck.objects.filter(wallet_id=account.pk).update(seq=5, checked_at=datetime(2026, 1, 1, tzinfo=UTC))
    with connection.cursor() as cursor:
        cursor.execute(books_sql.REMEMBER, {"accounts": [account.pk], "seqs": [4], "balances": [7]})
    assert proof_of(account) == (5, 100)
    BooksCheck.objects.filter(wallet_id=account.pk).delete()


def proof_of(account: Account) -> tuple[int, int]:
    proof = BooksCheck.objects.get(wallet_id=account.pk)
    return proof.seq, proof.balance
