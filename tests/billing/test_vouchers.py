"""Codes that give promotional credit: once, twice, at the same time, and killed in the middle."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Account, AuditEvent, User
from billing import clock, ledger, statements, vouchers
from billing.models import CodeTries, CreditLot, Voucher, VoucherRedemption
from billing.vouchers import Terms
from tests import factories
from tests.billing import processes, stage

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def redeem(voucher: Voucher | str, account: Account, form_id: UUID | None = None) -> VoucherRedemption:
    code = voucher if isinstance(voucher, str) else voucher.written
    by = User.objects.filter(accounts=account).first() or factories.user()
    return vouchers.redeem(account=account, code=code, form_id=form_id or uuid4(), now=clock.now(), by=by)


def balance(account: Account) -> int:
    return stage.wallet_of(account).posted


@pytest.mark.django_db
class TestACode:
    def test_it_gives_promotional_credit_that_the_statement_names(self) -> None:
        account = factories.account()
        redeem(factories.voucher(7, code="SPRING-SALE", credit_days=30), account)

        lot = CreditLot.objects.get(wallet_id=account.pk)
        assert (lot.kind, lot.remaining) == ("promotional", 7)
        assert lot.expires_at
        assert timedelta(days=29, hours=23) < lot.expires_at - NOW < timedelta(days=30, hours=1)
        [line] = statements.of_month(account, NOW.date().replace(day=1)).lines
        assert (line.title, line.reason, line.amount) == ("Promotional credit", "Code SPRING-SALE", 7)
        assert AuditEvent.objects.filter(account=account, action="billing.code_redeemed").count() == 1
        stage.assert_books_hold()

    @pytest.mark.parametrize("typed", ["spring-sale", "SPRING SALE", " 5pringsale", "SPR1NG-SALE", "sprIng--sale"])
    def test_case_hyphens_and_look_alikes_do_not_count(self, typed: str) -> None:
        voucher, account = factories.voucher(code="SPRING-SALE"), factories.account()
        if typed.strip().startswith("5"):  # But a 5 is no S.
            with pytest.raises(vouchers.UnknownCode):
                redeem(typed, account)
        else:
            assert redeem(typed, account).voucher == voucher

    def test_one_that_is_made_has_no_letter_that_is_taken_for_another(self) -> None:
        made = vouchers.create_batch(terms=Terms(5), count=200, batch_id=uuid4(), now=NOW)

        letters = {letter for voucher in made for letter in voucher.written}
        assert not letters & set("01OI")
        assert len({voucher.code for voucher in made}) == 200
        assert all(len(voucher.written) == 14 for voucher in made)

    def test_credit_pays_off_debt_first(self) -> None:
        account = factories.funded(10)
        factories.promotion(account, 5, expires_at=NOW - DAY)  # Its time is over, so it does not pay.
        factories.recorded(account, 15)
        ledger.settle(account_id=account.pk)
        redeem(factories.voucher(8), account)

        assert (balance(account), stage.wallet_of(account).debt) == (8, 0)
        assert stage.lots_of(account) == [("paid", 0), ("promotional", 5), ("promotional", 3)]

    @pytest.mark.parametrize(
        ("terms", "refusal"),
        [
            ({"valid_from": NOW + DAY}, vouchers.UnknownCode),
            ({"valid_until": NOW + DAY}, vouchers.CodeExpired),
            ({"credit_expires_at": NOW + DAY}, vouchers.CodeExpired),
        ],
    )
    def test_it_is_good_only_in_its_time(self, terms: dict[str, Any], refusal: type[Exception]) -> None:
        voucher, account = factories.voucher(**terms), factories.account()
        later = NOW + 2 * DAY if refusal is vouchers.CodeExpired else NOW
        with pytest.raises(refusal):
            vouchers.redeem(account=account, code=voucher.code, form_id=uuid4(), now=later, by=factories.user())

        assert not VoucherRedemption.objects.filter(account=account).exists()

    def test_one_that_is_switched_off_is_as_unknown_as_one_that_never_was(self) -> None:
        voucher, account = factories.voucher(), factories.account()
        vouchers.switch(chosen=Voucher.objects.filter(pk=voucher.pk), on=False)

        said = []
        for code in (voucher.written, "NEVER-WAS-ONE"):
            with pytest.raises(vouchers.UnknownCode) as refusal:
                redeem(code, account)
            said.append(str(refusal.value))
        assert said[0] == said[1]

    def test_an_account_redeems_it_as_often_as_one_account_may(self) -> None:
        voucher, account = factories.voucher(10, account_limit=2), factories.account()
        redeem(voucher, account)
        redeem(voucher, account)

        with pytest.raises(vouchers.AlreadyRedeemed):
            redeem(voucher, account)
        assert balance(account) == 20

    def test_the_same_form_again_credits_nothing_more(self) -> None:
        voucher, account, form = factories.voucher(10, account_limit=5), factories.account(), uuid4()

        assert redeem(voucher, account, form) == redeem(voucher, account, form)
        assert balance(account) == 10

    def test_after_the_last_one_it_is_used_up(self) -> None:
        voucher = factories.voucher(total_limit=1)
        redeem(voucher, factories.account())

        with pytest.raises(vouchers.CodeUsedUp):
            redeem(voucher, factories.account())

    def test_the_database_itself_refuses_one_more_than_the_limit(self) -> None:
        voucher = factories.voucher(total_limit=1)
        with pytest.raises(IntegrityError, match="voucher_within_total_limit"), transaction.atomic():
            Voucher.objects.filter(pk=voucher.pk).update(redeemed=2)

    @pytest.mark.parametrize(
        "terms",
        [
            {"amount": 0},
            {"amount": vouchers.MAX_AMOUNT + 1},
            {"credit_days": 0},
            {"credit_days": 1, "credit_expires_at": NOW + DAY},
            {"credit_expires_at": NOW - DAY},
            {"valid_until": NOW - DAY},
            {"valid_from": NOW + 2 * DAY, "valid_until": NOW + DAY},
            {"total_limit": 0},
            {"account_limit": 0},
            {"total_limit": 2**31},
            {"account_limit": 10**30},
        ],
    )
    def test_terms_that_cannot_be_are_refused(self, terms: dict[str, object]) -> None:
        with pytest.raises(vouchers.InvalidVoucher):
            vouchers.create(terms=Terms(**{"amount": 5, **terms}), now=NOW)  # type: ignore[arg-type]

    @pytest.mark.parametrize("code", ["SHORT", "A" * 41, "WITH_LINE", "ÜBER-GROSS"])
    def test_a_code_that_cannot_be_typed_is_refused(self, code: str) -> None:
        with pytest.raises(vouchers.InvalidVoucher):
            factories.voucher(code=code)

    def test_two_codes_that_are_the_same_to_a_reader_are_refused(self) -> None:
        factories.voucher(code="FLINT-100")
        with pytest.raises(vouchers.InvalidVoucher, match="already"):
            factories.voucher(code="FLINTIOO")

    def test_a_batch_is_made_once(self) -> None:
        batch = uuid4()
        vouchers.create_batch(terms=Terms(5), count=3, batch_id=batch, now=NOW)
        with pytest.raises(vouchers.BatchExists):
            vouchers.create_batch(terms=Terms(5), count=3, batch_id=batch, now=NOW)

        assert Voucher.objects.filter(batch_id=batch).count() == 3


@pytest.mark.django_db
class TestGuessing:
    def guess(self, account: Account, times: int) -> None:
        for _ in range(times):
            with pytest.raises(vouchers.UnknownCode):
                redeem("NEVER-WAS-ONE", account)

    def test_an_account_has_so_many_tries_and_then_not_even_a_good_code_works(self) -> None:
        account, voucher = factories.account(), factories.voucher()
        self.guess(account, vouchers.TRIES_OF_ACCOUNT)

        with pytest.raises(vouchers.TooManyTries):
            redeem(voucher, account)
        redeem(voucher, factories.account())  # Others are not kept waiting.

    def test_what_worked_does_not_count(self) -> None:
        account = factories.account()
        self.guess(account, vouchers.TRIES_OF_ACCOUNT - 1)
        for _ in range(3):
            redeem(factories.voucher(), account)

    @pytest.mark.parametrize(
        ("first", "then"), [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2::3", "2001:db8:1:2:ffff::1")]
    )
    def test_an_address_has_so_many_tries_with_however_many_accounts(
        self, first: str, then: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vouchers, "TRIES_OF_ADDRESS", 3)
        with audit.coming_from(first):
            for _ in range(3):
                self.guess(factories.account(), 1)
        with audit.coming_from(then), pytest.raises(vouchers.TooManyTries):
            redeem(factories.voucher(), factories.account())

    def test_an_hour_later_there_are_new_ones(self) -> None:
        account = factories.account()
        self.guess(account, vouchers.TRIES_OF_ACCOUNT)
        CodeTries.objects.filter(who=f"account:{account.pk}").update(since=NOW - timedelta(minutes=61))

        redeem(factories.voucher(), account)


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    @pytest.mark.parametrize("forms", ["one form", "a form each"])
    def test_an_account_redeems_once(self, forms: str) -> None:
        voucher, account, form = factories.voucher(10), factories.account(), uuid4()
        tries = [partial(redeem, voucher, account, form if forms == "one form" else uuid4()) for _ in range(8)]

        done = stage.at_the_same_time(*tries)

        worked = [one for one in done if isinstance(one, VoucherRedemption)]
        assert len(worked) == (8 if forms == "one form" else 1)
        assert all(isinstance(one, VoucherRedemption | vouchers.AlreadyRedeemed) for one in done)
        assert (balance(account), VoucherRedemption.objects.filter(voucher=voucher).count()) == (10, 1)
        stage.assert_books_hold()

    def test_all_together_redeem_no_more_than_the_total(self) -> None:
        voucher, accounts = factories.voucher(10, total_limit=5), [factories.account() for _ in range(16)]

        done = stage.at_the_same_time(*(partial(redeem, voucher, account) for account in accounts))

        assert sum(isinstance(one, VoucherRedemption) for one in done) == 5
        assert sum(isinstance(one, vouchers.CodeUsedUp) for one in done) == 11
        voucher.refresh_from_db()
        assert (voucher.redeemed, voucher.redemptions.count()) == (5, 5)
        stage.assert_books_hold()

    def test_guesses_are_counted(self) -> None:
        account = factories.account()

        done = stage.at_the_same_time(*(partial(redeem, "NEVER-WAS-ONE", account) for _ in range(16)))

        assert sum(isinstance(one, vouchers.UnknownCode) for one in done) == vouchers.TRIES_OF_ACCOUNT
        assert sum(isinstance(one, vouchers.TooManyTries) for one in done) == 16 - vouchers.TRIES_OF_ACCOUNT

    def test_a_process_killed_before_its_commit_leaves_nothing_and_the_next_one_redeems(self) -> None:
        voucher, account, by = factories.voucher(10, total_limit=1), factories.funded(1), factories.user()
        with stage.another_connection() as other:
            other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR NO KEY UPDATE", [account.pk])
            with processes.running(processes.redeem_once, account.pk, voucher.written, by.pk):
                stage.wait_until_blocked_by(other)  # Transfer and lot are written, the wallet is not.
        voucher.refresh_from_db()
        assert (balance(account), voucher.redeemed, voucher.redemptions.count()) == (1, 0, 0)

        redeem(voucher, account)
        assert balance(account) == 11
        stage.assert_books_hold()

    @pytest.mark.parametrize("seed", range(4))
    def test_killed_at_any_moment_each_account_has_redeemed_once_in_the_end(self, seed: int) -> None:
        voucher = factories.voucher(10, total_limit=3)
        accounts, by = [factories.account() for _ in range(6)], factories.user()
        ids = [account.pk for account in accounts]
        processes.kill_at_random(processes.redeem_for_ever, ids, voucher.written, by.pk, seed=seed, seconds=0.08)

        for account in accounts:
            with suppress(vouchers.CodeUsedUp, vouchers.AlreadyRedeemed):
                redeem(voucher, account)

        voucher.refresh_from_db()
        assert (voucher.redeemed, voucher.redemptions.count()) == (3, 3)
        credited = CreditLot.objects.filter(wallet_id__in=ids).values_list("remaining", flat=True)
        assert list(credited) == [10, 10, 10]
        stage.assert_books_hold()
