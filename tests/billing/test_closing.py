"""Closing an account with money left: said before, never forfeited, and done once however often."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from accounts import registration
from accounts.models import Account, AuditEvent, Membership
from apikeys import keys
from billing import clock, closing, ledger
from billing.models import AccountClosing, Transfer, Wallet
from tests import factories, people
from tests.accounts import browsing
from tests.billing import processes, stage

CLOSE = "/billing/close/"
USD = 10**12


def customer(paid: int = 0, given: int = 0) -> Account:
    account, _ = people.customer("alice")
    keys.create(account=account, name="laptop", now=clock.now())
    if paid:
        factories.credit(account, paid)
    if given:
        factories.promotion(account, given, expires_at=None)
    return account


def ask(account: Account) -> None:
    closing.ask(account=account, by=Membership.objects.get(account=account), now=clock.now())
    AccountClosing.objects.filter(account=account).update(requested_at=clock.now() - closing.QUIET)


def finish() -> int:
    return closing.finish_all(now=clock.now())


def state(account: Account) -> str:
    return AccountClosing.objects.get(account=account).state


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
class TestClosing:
    def test_it_shuts_the_account_out_and_revokes_its_keys(self) -> None:
        account = customer()
        ask(account)
        ask(account)

        account.refresh_from_db()
        assert account.disabled_at is not None
        assert account.api_keys.get().revoked_at is not None
        assert AuditEvent.objects.filter(account=account, action="account.closing").count() == 1
        assert finish() == 1
        assert state(account) == "closed"

    def test_paid_money_waits_for_a_person_and_promotional_credit_ends_by_a_transfer(self) -> None:
        account = customer(paid=7 * USD, given=3 * USD)
        ask(account)
        for _ in range(3):
            assert finish() == 0

        assert state(account) == "money_left"
        assert stage.wallet_of(account).posted == 7 * USD
        assert list(Transfer.objects.filter(wallet=account.pk, kind="expiry").values_list("amount", flat=True)) == [
            3 * USD
        ]
        stage.assert_books_hold()

        factories.debit(account, 7 * USD)  # Refunded.
        assert finish() == 1
        assert state(account) == "closed"

    def test_less_than_a_cent_is_written_off_as_a_line_of_the_statement(self) -> None:
        account = customer(paid=10**10 - 1)
        ask(account)

        assert finish() == 1
        last = Transfer.objects.filter(wallet=account.pk).latest("wallet_seq")
        assert (last.kind, last.amount) == ("adjustment", 10**10 - 1)
        stage.assert_books_hold()

    def test_it_waits_for_running_calls_and_for_their_charge(self) -> None:
        account = customer(given=3 * USD)
        call = factories.ask(account, USD)
        factories.held(call)
        factories.recorded(account, USD)
        ask(account)
        assert finish() == 0
        assert state(account) == "closing"

        ledger.settle(account_id=account.pk)
        assert finish() == 0
        assert stage.wallet_of(account).posted == 2 * USD

    def test_money_that_comes_in_after_the_end_is_seen(self) -> None:
        account = customer()
        ask(account)
        assert finish() == 1
        factories.credit(account, USD)
        finish()

        assert state(account) == "money_left"

    def test_a_run_looks_at_some_and_none_waits_behind_those_that_cannot_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting, ready = [customer(given=USD) for _ in range(3)], [customer() for _ in range(3)]
        for account in waiting:
            factories.held(factories.ask(account, 1))
        for account in waiting + ready:
            ask(account)
        monkeypatch.setattr(closing, "SWEPT", 2)

        assert [finish() for _ in range(4)] == [0, 1, 2, 0]
        assert [state(account) for account in waiting + ready] == ["closing"] * 3 + ["closed"] * 3

    def test_debt_has_to_be_paid_first(self) -> None:
        account = customer(paid=1)
        Wallet.objects.filter(pk=account.pk).update(posted=-5)

        with pytest.raises(closing.CannotClose, match="below zero"):
            ask(account)

    def test_staff_who_let_it_in_again_end_the_closing(self) -> None:
        account = customer()
        ask(account)
        registration.enable(chosen=Account.objects.filter(pk=account.pk))
        factories.promotion(account, USD, expires_at=None)
        assert finish() == 0
        assert stage.wallet_of(account).posted == USD

        ask(account)
        assert finish() == 1
        assert stage.wallet_of(account).posted == 0

    def test_block_keeps_an_account_with_paid_money_open_and_says_why(self, settings: Any) -> None:
        settings.ACCOUNT_CLOSING = "block"
        account = customer(paid=7 * USD, given=USD)

        page = people.owner_of(account).post(CLOSE, {"sure": "yes"}, follow=True).content.decode()

        assert "$7.00 of what you paid is not spent" in page
        assert not AccountClosing.objects.filter(account=account).exists()
        account.refresh_from_db()
        assert account.disabled_at is None


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_many_who_ask_and_finish_close_once(self) -> None:
        account = customer(given=3 * USD)
        stage.at_the_same_time(*[partial(ask, account)] * 4)
        done = stage.at_the_same_time(*[finish] * 4)

        assert sorted(done) == [0, 0, 0, 1]
        assert Transfer.objects.filter(wallet=account.pk, kind="expiry").count() == 1
        stage.assert_books_hold()

    def test_one_killed_in_the_middle_leaves_nothing_half_done(self) -> None:
        account = customer(given=3 * USD)
        ask(account)
        with stage.another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])
            with processes.running(finish):
                stage.wait_until_blocked_by(other)
        assert (state(account), stage.wallet_of(account).posted) == ("closing", 3 * USD)

        assert finish() == 1
        assert stage.wallet_of(account).posted == 0
        stage.assert_books_hold()


@pytest.mark.django_db
class TestThePage:
    def test_it_says_before_what_will_happen_and_after_what_did(self) -> None:
        account = customer(paid=7 * USD, given=3 * USD)
        client = people.owner_of(account)
        before = client.get(CLOSE).content.decode()
        assert "$7.00</span> now, is refunded" in before
        assert "Promotional credit of" in before

        assert client.post(CLOSE, {}).status_code == 400
        assert not AccountClosing.objects.filter(account=account).exists()
        assert "is being closed" in client.post(CLOSE, {"sure": "yes"}, follow=True).content.decode()

    def test_it_asks_who_it_is_again_and_then_closes(self) -> None:
        account = customer(paid=7 * USD)
        client = browsing.with_password(account.users.get())
        assert client.get(CLOSE).status_code == 200

        asked = client.post(CLOSE, {"sure": "yes"})

        assert asked["Location"].startswith("/accounts/reauthenticate/")
        assert not AccountClosing.objects.filter(account=account).exists()
        assert "is being closed" in browsing.go_on(client, asked).content.decode()
        assert state(account) == "closing"

    def test_who_turns_to_another_account_before_the_proof_closes_neither(self) -> None:
        account, other = customer(), customer()
        user = account.users.get()
        Membership.objects.create(account=other, user=user, role="owner")
        client = browsing.with_password(user)
        asked = client.post(CLOSE, {"sure": "yes"})
        client.post("/switch/", {"account": other.pk})

        shown = browsing.go_on(client, asked).content.decode()

        assert "I am sure" in shown
        assert other.name in shown
        assert not AccountClosing.objects.filter(account__in=[account, other]).exists()

    def test_an_admin_may_not(self) -> None:
        account = customer()
        admin = people.signed_in(people.member_of(account, "admin"))

        assert admin.post(CLOSE, {"sure": "yes"}).status_code == 403
        assert CLOSE not in admin.get("/team/").content.decode()

    def test_the_overview_says_that_it_is_closed_and_asks_for_nothing_more(self) -> None:
        account = customer(paid=7 * USD)
        factories.recorded(account, 1)
        factories.auto_recharge(account, enabled=False, stopped_reason="closing", stopped_at=clock.now())
        ask(account)
        owner, billing = people.owner_of(account), people.signed_in(people.member_of(account, "billing"))

        shown = owner.get("/").content.decode()

        assert "This account is being closed" in shown
        assert f'href="{CLOSE}">What becomes of its money' in shown
        assert "What becomes of its money" not in billing.get("/").content.decode()
        for words in ("to have it enabled", "Auto-recharge has stopped", "Create one"):
            assert words not in shown
