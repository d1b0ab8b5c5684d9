from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest

from billing import credits
from billing.models import CreditLot, LedgerAccount, Transfer, TransferKind, Wallet
from tests import factories
from tests.billing import stage

NOW = datetime.now(UTC)


@pytest.mark.django_db
class TestWelcome:
    def test_it_is_promotional_credit(self) -> None:
        account = factories.account()

        transfer = credits.welcome(account=account, amount=5, now=NOW)

        assert transfer is not None
        assert (transfer.kind, transfer.debit) == (TransferKind.PROMOTION, LedgerAccount.PROMOTIONS)
        lot = CreditLot.objects.get(wallet_id=account.pk)
        assert (lot.kind, lot.remaining) == (CreditLot.Kind.PROMOTIONAL, 5)

    def test_twice_gives_once_even_if_it_became_more(self) -> None:
        account = factories.account()
        first = credits.welcome(account=account, amount=5, now=NOW)
        assert credits.welcome(account=account, amount=5, now=NOW) == first
        assert credits.welcome(account=account, amount=7, now=NOW) == first
        assert Wallet.objects.get(pk=account.pk).posted == 5

    def test_nothing_is_no_transfer(self) -> None:
        account = factories.account()
        assert credits.welcome(account=account, amount=0, now=NOW) is None
        assert not Transfer.objects.filter(wallet_id=account.pk).exists()


@pytest.mark.usefixtures("committed")
def test_eight_welcomes_at_the_same_time_give_one() -> None:
    account = factories.account()

    done = stage.at_the_same_time(*[partial(credits.welcome, account=account, amount=5, now=NOW)] * 8)

    assert {result.pk for result in done if isinstance(result, Transfer)} == {
        Transfer.objects.get(wallet_id=account.pk).pk
    }
    assert len(done) == 8
    assert Wallet.objects.get(pk=account.pk).posted == 5
