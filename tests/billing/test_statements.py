"""The statement closes, to the pico-dollar, in whatever order calls were charged."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import Account
from apikeys.models import ApiKey
from billing import money, periods, settlement, statements
from billing.models import Transfer, TransferKind, Wallet
from billing.statements import Statement
from tests import factories
from tests.billing.looking import called, customer, downloaded, member, text
from tests.billing.stage import assert_books_hold

pytestmark = pytest.mark.django_db

OCTOBER, NOVEMBER, DECEMBER = date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1)


def at(month: int, day: int, hour: int = 12, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def signed(transfer: Transfer) -> int:
    return transfer.amount if transfer.credit == "wallet" else -transfer.amount


def balance_before(account: Account, day: date) -> int:
    """From all transfers there are."""
    return sum(signed(transfer) for transfer in Transfer.objects.filter(wallet_id=account.pk, day__lt=day))


def assert_closes(statement: Statement, account: Account) -> None:
    assert statement.opening == balance_before(account, statement.month)
    assert statement.closing == balance_before(account, periods.month_of(statement.month).until.date())
    balance = statement.opening
    for line in statement.lines:
        balance += line.amount
        assert line.balance == balance
        day = Transfer.objects.filter(wallet_id=account.pk, day=line.day)
        if line.kind == TransferKind.USAGE:
            assert line.amount == sum(signed(transfer) for transfer in day.filter(kind="usage"))
    assert balance == statement.closing


def test_a_day_of_calls_is_one_line_and_other_transfers_are_one_each() -> None:
    account = factories.account()
    factories.credit(account, 1_000, now=at(11, 3), reason="welcome")
    for charge in (7, 5):
        called(account, charge, at=at(11, 4))
    called(account, 11, at=at(11, 5))
    factories.debit(account, 100, now=at(11, 5))

    found = statements.of_month(account, NOVEMBER)

    assert [(line.day.day, line.title, line.reason, line.amount, line.balance) for line in found.lines] == [
        (3, "Credit from us", "welcome", 1_000, 1_000),
        (4, "Usage", "", -12, 988),
        (5, "Adjustment", "", -100, 888),
        (5, "Usage", "", -11, 877),
    ]
    assert (found.opening, found.closing, found.posted) == (0, 877, 877)
    assert (found.added, found.taken) == (1_000, -123)


def test_a_call_charged_after_midnight_belongs_to_the_day_and_month_in_which_it_began() -> None:
    account = factories.account()
    factories.credit(account, 1_000, now=at(10, 20))
    called(account, 10, at=at(10, 31, 23, 50))
    called(account, 200, at=at(11, 1, 0, 1))
    factories.credit(account, 50, now=at(11, 1, 0, 2))
    called(account, 3, at=at(10, 31, 23, 59))  # A long one, charged last of all.
    called(account, 4, at=at(10, 30))

    october, november = (statements.of_month(account, month) for month in (OCTOBER, NOVEMBER))

    assert (october.opening, october.closing) == (0, 983)
    assert (november.opening, november.closing, november.posted) == (983, 833, 833)
    assert [(line.day.day, line.amount) for line in october.lines] == [(20, 1_000), (30, -4), (31, -13)]
    assert [(line.day.day, line.amount) for line in november.lines] == [(1, 50), (1, -200)]
    assert_closes(october, account)
    assert_closes(november, account)


@pytest.mark.parametrize("seed", range(8))
def test_every_month_closes_whatever_the_order_in_which_things_were_charged(seed: int) -> None:
    chance = random.Random(seed)
    account = factories.account()
    factories.credit(account, 1_000_000, now=at(9, 28))
    for _ in range(70):
        moment = at(9, 29) + timedelta(minutes=chance.randrange(65 * 24 * 60))
        match chance.randrange(6):
            case 0:
                factories.credit(account, chance.randrange(1, 5_000), now=moment)
            case 1:
                factories.debit(account, chance.randrange(1, 500), now=moment)
            case _:
                called(account, chance.randrange(1_000), at=moment, settled=chance.random() < 0.6)
    settlement.settle_accounts(account_ids=[account.pk])

    months = [date(2026, number, 1) for number in (9, 10, 11, 12)]
    found = [statements.of_month(account, month) for month in months]

    for statement in found:
        assert_closes(statement, account)
    assert [one.opening for one in found[1:]] == [one.closing for one in found[:-1]]
    assert found[-1].closing == found[-1].posted == Wallet.objects.get(pk=account.pk).posted
    assert_books_hold()


def test_a_call_that_is_not_charged_yet_is_in_neither_the_lines_nor_the_balance() -> None:
    account = factories.funded(1_000)
    called(account, 10, at=datetime.now(UTC), settled=False)

    found = statements.of_month(account, datetime.now(UTC).date().replace(day=1))

    assert [line.kind for line in found.lines] == ["adjustment"]
    assert found.closing == found.posted == 1_000


def test_the_months_are_those_with_a_line() -> None:
    account = factories.account()
    factories.credit(account, 1_000, now=at(8, 3))
    called(account, 1, at=at(11, 4))

    assert statements.months(account) == [NOVEMBER, date(2026, 8, 1)]
    assert statements.months(factories.account()) == []


def test_another_account_is_not_in_it() -> None:
    account, other = factories.funded(1_000), factories.funded(7_000)
    called(other, 5, at=at(11, 4))

    found = statements.of_month(account, datetime.now(UTC).date().replace(day=1))

    assert found.closing == 1_000
    assert len(found.lines) == 1


class TestPage:
    def test_shows_each_line_with_its_balance_and_the_exact_amount_on_hover(self) -> None:
        account, owner = customer()
        called(account, 38_400_001, at=datetime.now(UTC))

        content = text(owner, "/statement/")

        assert 'title="-0.000038400001 USD">-$0.0000384</span>' in content
        assert 'title="0.999961599999 USD">' in content
        assert "Balance now" in content

    def test_a_day_opens_into_its_models_and_keys(self) -> None:
        account, owner = customer()
        second = ApiKey.objects.create(account=account, name="second key", digest=b"2" * 32, display="tk-2")
        now = datetime.now(UTC)
        called(account, 11, at=now)
        called(account, 22, at=now, api_key_id=second.pk)

        closed = text(owner, "/statement/")
        opened = text(owner, f"/statement/?day={now:%Y-%m-%d}")

        assert "second key" not in closed
        assert "second key" in opened
        assert 'title="-0.000000000022 USD"' in opened
        assert 'title="-0.000000000033 USD"' in opened

    def test_what_came_in_is_told_in_words_and_never_as_markup(self) -> None:
        account, owner = customer()
        factories.promotion(account, 5, expires_at=None, reason="<b>sorry</b>")

        content = text(owner, "/statement/")

        assert "Promotional credit" in content
        assert "&lt;b&gt;sorry&lt;/b&gt;" in content

    def test_an_empty_account_is_told_what_will_be_here(self) -> None:
        content = text(member(factories.account(), "owner"), "/statement/")

        assert "There is nothing yet" in content

    @pytest.mark.parametrize(
        "month", ["x", "2026-13", "9999-01", "1999-01", "2026-1", "%00", "2026-11-01", "٢٠٢٦-11", "2026-11%0A"]
    )
    def test_a_month_that_is_none_is_told(self, month: str) -> None:
        _, owner = customer()

        for address in ("/statement/", "/statement/export.csv"):
            assert "There is no such month" in text(owner, f"{address}?month={month}", status=400)

    @pytest.mark.parametrize("day", ["x", "2026-02-30", "%00", "9999-99-99", "2026-11-24"])
    def test_a_day_that_is_not_in_it_opens_nothing(self, day: str) -> None:
        _, owner = customer()

        assert 'aria-expanded="true"' not in text(owner, f"/statement/?day={day}")


class TestFile:
    def test_adds_up_from_the_opening_to_the_closing_balance(self) -> None:
        account = factories.account()
        factories.credit(account, 10**12 + 1, now=at(10, 20))
        called(account, 123_456_789, at=at(10, 21))
        factories.credit(account, 7, now=at(11, 1), reason='=HYPERLINK("http://x")')
        called(account, 38_400_001, at=at(11, 2))

        name, rows = downloaded(member(account, "billing"), "/statement/export.csv?month=2026-11")

        assert name == "statement-2026-11.csv"
        assert [row["what"] for row in rows] == ["Opening balance", "Credit from us", "Usage", "Closing balance"]
        assert rows[1]["reason"] == '\'=HYPERLINK("http://x")'
        assert rows[2]["amount_usd"] == "-0.000038400001"
        opening, closing = (Decimal(row["balance_usd"]) for row in (rows[0], rows[-1]))
        assert opening + sum(Decimal(row["amount_usd"] or 0) for row in rows) == closing
        found = statements.of_month(account, NOVEMBER)
        assert (rows[0]["balance_usd"], rows[-1]["balance_usd"]) == (
            money.usd(found.opening), money.usd(found.closing),
        )  # fmt: skip
        assert Decimal(rows[-2]["balance_usd"]) == closing

    def test_has_a_row_for_each_day_and_model(self) -> None:
        account = factories.funded(10**12)
        version = factories.price(factories.language_model(public_id=factories.unique("@model")))
        called(account, 3, at=at(11, 2))
        called(account, 4, at=at(11, 2), model_id=version.model_id, price_version_id=version.pk)

        _, rows = downloaded(member(account, "owner"), "/statement/export.csv?month=2026-11")

        usage = [(row["day"], row["model"][:6], row["calls"], row["amount_usd"]) for row in rows if row["calls"]]
        assert usage == [
            ("2026-11-02", "'@mode", "1", "-0.000000000004"),
            ("2026-11-02", "deepse", "1", "-0.000000000003"),
        ]


def test_the_page_takes_few_queries_however_long_the_history(
    client: Client, django_assert_max_num_queries: object
) -> None:
    account, owner = customer()
    for day in range(1, 20):
        called(account, day, at=at(11, day))

    with django_assert_max_num_queries(12):  # type: ignore[operator]
        text(owner, "/statement/?month=2026-11&day=2026-11-05")
