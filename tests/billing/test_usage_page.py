"""Usage: the chart, the table, the totals, the file and the statement say the same, to the pico-dollar."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from apikeys.models import ApiKey
from billing import charts, money, periods, spending, statements
from billing.models import RefusedCalls, ReleasedHolds
from billing.periods import DAY, HOUR
from billing.spending import Scope
from tests import factories
from tests.billing.looking import called, customer, downloaded, text

pytestmark = pytest.mark.django_db


# Asked at each use: a run of all tests may begin in one hour and end in another.
def now() -> datetime:
    return datetime.now(UTC)


def today() -> datetime:
    return now().replace(hour=0, minute=0, second=0, microsecond=0)


def days_ago(days: int) -> datetime:
    return today() - timedelta(days=days) + timedelta(minutes=1)


def shown(client: Any, query: str = "") -> Any:
    return client.get(f"/usage/{query}").context


class TestFigures:
    def test_the_chart_the_totals_the_statement_and_the_file_agree(self) -> None:
        account, owner = customer()
        version = factories.price()
        for number, moment in enumerate([days_ago(0), days_ago(0), days_ago(1), days_ago(6), days_ago(9)]):
            called(account, 10**9 + number, at=moment)
        called(account, 10**12 // 3, at=days_ago(2), model_id=version.model_id, price_version_id=version.pk)

        context = shown(owner, "?period=30d")
        _, rows = downloaded(owner, "/usage/export.csv?period=30d")

        charge = 5 * 10**9 + 10 + 10**12 // 3
        assert context["total"].charge == context["chart"].total == charge
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(money.usd(charge))
        by_day = {bar.moment.date(): bar.total for bar in context["chart"].bars if bar.total}
        months = {day.replace(day=1) for day in by_day}
        lines = [line for month in months for line in statements.of_month(account, month).lines]
        assert by_day == {line.day: -line.amount for line in lines if line.kind == "usage"}
        assert sum(int(row["calls"]) for row in rows) == context["total"].calls == 6

    def test_tokens_are_summed_up(self) -> None:
        account, owner = customer()
        for _ in range(2):
            called(account, 1, at=days_ago(0), input_tokens=1_000, cached_input_tokens=400, output_tokens=9)

        total = shown(owner)["total"]

        assert (total.calls, total.input_tokens, total.cached_input_tokens, total.output_tokens) == (2, 2_000, 800, 18)

    def test_the_dearest_five_have_a_colour_each_and_the_rest_one(self) -> None:
        account, owner = customer()
        for number in range(7):
            version = factories.price()
            charge = 100 - number
            called(account, charge, at=days_ago(1), model_id=version.model_id, price_version_id=version.pk)

        context = shown(owner)

        assert len(context["series"]) == 7
        assert context["chart"].names[-1] == "Other"
        bar = next(bar for bar in context["chart"].bars if bar.total)
        assert list(bar.amounts) == [100, 99, 98, 97, 96, 95 + 94]
        assert [segment.series for segment in bar.segments] == [1, 2, 3, 4, 5, 6]

    def test_split_by_key_tells_keys_of_the_same_name_apart(self) -> None:
        account, owner = customer()
        twin = ApiKey.objects.create(account=account, name="a key", digest=b"t" * 32, display="tk-twin")
        called(account, 1, at=days_ago(0))
        called(account, 2, at=days_ago(0), api_key_id=twin.pk)

        context = shown(owner, "?group=key")

        assert [(one.name, one.detail, one.figures.charge) for one in context["series"]] == [
            ("a key", "tk-twin", 2), ("a key", "tk-...", 1),
        ]  # fmt: skip
        assert list(context["chart"].bars[-1].amounts) == [2, 1]

    def test_without_a_split_there_is_one_bar(self) -> None:
        account, owner = customer()
        called(account, 3, at=days_ago(0))

        context = shown(owner, "?group=none")

        assert (context["chart"].names, list(context["chart"].bars[-1].amounts)) == (["All calls"], [3])

    def test_key_and_model_narrow_everything_down(self) -> None:
        account, owner = customer()
        key = ApiKey.objects.create(account=account, name="other", digest=b"o" * 32, display="tk-o")
        version = factories.price()
        called(account, 1, at=days_ago(0))
        called(account, 20, at=days_ago(0), api_key_id=key.pk)
        called(account, 300, at=days_ago(0), model_id=version.model_id, price_version_id=version.pk)

        for query, charge in ((f"key={key.pk}", 20), (f"model={version.model.public_id}", 300)):
            context = shown(owner, f"?{query}")
            _, rows = downloaded(owner, f"/usage/export.csv?{query}")
            assert context["total"].charge == context["chart"].total == charge
            assert [row["cost_usd"] for row in rows] == [money.usd(charge)]

    def test_what_another_account_used_is_not_in_it(self) -> None:
        _, owner = customer()
        other, _ = customer()
        called(other, 7, at=days_ago(0))

        assert shown(owner)["series"] == []


class TestTime:
    @pytest.mark.parametrize(
        ("query", "step", "bars"),
        [
            ("?period=today", HOUR, lambda at: at.hour + 1),
            ("?period=7d", DAY, lambda at: 7),
            ("?period=30d", DAY, lambda at: 30),
            ("?period=month", None, lambda at: at.day if at.day > 2 else 24 * (at.day - 1) + at.hour + 1),
            ("?period=custom&since={1}", HOUR, lambda at: 24 + at.hour + 1),
            ("?period=custom&since={9}&until={5}", DAY, lambda at: 5),
        ],
    )
    def test_hours_up_to_two_days_and_days_beyond_and_nothing_of_the_future(
        self, query: str, step: timedelta | None, bars: Callable[[datetime], int]
    ) -> None:
        account, owner = customer()
        for days in (0, 7):
            called(account, 1, at=days_ago(days))

        begun = now()
        chart = shown(owner, query.format(*(f"{days_ago(days):%Y-%m-%d}" for days in range(10))))["chart"]

        step = step or (DAY if begun.day > 2 else HOUR)
        assert chart.hourly == (step == HOUR)
        assert len(chart.bars) in (bars(begun), bars(now()))  # The hour may have turned just then.

    def test_a_period_counts_from_midnight_to_midnight(self) -> None:
        account, owner = customer()
        called(account, 1, at=today() - timedelta(days=2, milliseconds=1))
        called(account, 10, at=today() - timedelta(days=2))
        called(account, 100, at=today() - timedelta(milliseconds=1))
        called(account, 1000, at=today())

        dates = f"since={days_ago(2):%Y-%m-%d}&until={days_ago(1):%Y-%m-%d}"

        assert shown(owner, f"?period=custom&{dates}")["total"].charge == 110

    def test_only_the_last_bar_of_today_is_so_far(self) -> None:
        account, owner = customer()
        called(account, 1, at=days_ago(0))

        bars = shown(owner)["chart"].bars

        assert [bar.so_far for bar in bars] == [False] * 6 + [True]

    def test_garbage_is_told_and_never_breaks(self) -> None:
        _, owner = customer()

        for query in (
            "period=x", "period=custom", "group=x", "key=1e9", "model=%00", "group=%00",
            "period=custom&since=2021-01-01&until=2026-01-01", "period=custom&since=3000-01-01",
        ):  # fmt: skip
            for address in ("/usage/", "/usage/export.csv"):
                assert 'role="alert"' in text(owner, f"{address}?{query}", status=400)


class TestPage:
    def test_the_picture_says_what_it_shows_and_has_the_same_as_a_table(self) -> None:
        account, owner = customer()
        called(account, 10**12, at=days_ago(1))

        content = text(owner, "/usage/")

        assert re.search(r'<svg class="chart"[^>]* role="img" aria-labelledby="usage-title usage-desc"', content)
        assert f"the most on {days_ago(1):%Y-%m-%d}, $1.00." in content
        assert content.count('<th scope="row">20') == 7
        assert 'title="1 USD"' in content

    def test_refused_and_failed_calls_are_told_in_words(self) -> None:
        account, owner = customer()
        hour = now().replace(minute=0, second=0, microsecond=0)
        for code, calls in (("rate_limit_exceeded_tokens", 2), ("something_new", 1)):
            RefusedCalls.objects.create(account=account, hour=hour, status=429, code=code, calls=calls)
        RefusedCalls.objects.create(account=account, hour=hour - timedelta(days=40), status=402, code="old", calls=9)
        ReleasedHolds.objects.create(account=account, hour=hour, reason="model_unavailable", calls=3)
        ReleasedHolds.objects.create(account=account, hour=hour, reason="unfit for words", calls=1)

        content = text(owner, "/usage/")

        assert "2 refused: too many tokens in a minute" in content
        assert "1 refused: something_new" in content
        assert "3 failed before the answer began: the model was unavailable" in content
        assert "1 failed before the answer began: a fault of ours" in content
        assert "9 refused" not in content

    def test_an_empty_time_is_told(self) -> None:
        account, owner = customer()
        called(account, 1, at=days_ago(20))

        assert "There is none in this time" in text(owner, "/usage/")
        assert "No call matches" in text(owner, f"/usage/?key={account.api_keys.get().pk}")
        assert "<svg" not in text(owner, "/usage/").split("<main")[1]

    def test_takes_few_queries_whatever_there_is(self, django_assert_max_num_queries: Any) -> None:
        account, owner = customer()
        for days in range(12):
            version = factories.price()
            called(account, 1, at=days_ago(days), model_id=version.model_id, price_version_id=version.pk)

        for group in ("model", "key", "none"):
            with django_assert_max_num_queries(12):
                text(owner, f"/usage/?period=30d&group={group}")


class TestFile:
    def test_has_a_row_for_each_day_key_and_model(self) -> None:
        account, owner = customer()
        called(account, 5, at=days_ago(3))
        called(account, 7, at=days_ago(3))
        called(account, 9, at=days_ago(1))

        name, rows = downloaded(owner, "/usage/export.csv?period=7d")

        assert name == f"usage-{days_ago(6):%Y-%m-%d}-{today():%Y-%m-%d}.csv"
        assert [(row["from"], row["calls"], row["cost_usd"]) for row in rows] == [
            (f"{days_ago(3):%Y-%m-%d}", "2", "0.000000000012"),
            (f"{days_ago(1):%Y-%m-%d}", "1", "0.000000000009"),
        ]

    def test_is_by_the_hour_where_the_chart_is(self) -> None:
        account, owner = customer()
        called(account, 5, at=days_ago(0))

        _, rows = downloaded(owner, "/usage/export.csv?period=today")

        assert [row["from"] for row in rows] == [f"{today():%Y-%m-%d}T00:00Z"]


class TestChart:
    def test_bars_stand_on_each_other_and_within_the_picture(self) -> None:
        chart = charts.stacked(
            names=["a", "b"], moments=[today()], amounts={today(): [3_000, 1_000]}, step=DAY, now=now()
        )
        lower, upper = chart.bars[0].segments

        assert lower.y + lower.height == chart.bottom
        assert upper.y + upper.height == pytest.approx(lower.y)
        assert upper.y == chart.ticks[-1].at
        assert lower.height == pytest.approx(3 * upper.height, abs=0.02)

    def test_what_is_there_is_seen_and_what_is_not_is_not(self) -> None:
        moments = [today() - DAY, today()]

        chart = charts.stacked(names=["a"], moments=moments, amounts={today(): [1]}, step=DAY, now=now())
        tiny = charts.stacked(
            names=["a"], moments=moments, amounts={today(): [1], today() - DAY: [10**15]}, step=DAY, now=now()
        )

        assert [len(bar.segments) for bar in chart.bars] == [0, 1]
        assert tiny.bars[1].segments[0].height == 1

    @pytest.mark.parametrize("highest", [0, 1, 9, 10, 11, 85, 10**6 + 1, 10**12, 3 * 10**18])
    def test_the_axis_reaches_the_highest_bar_in_short_steps(self, highest: int) -> None:
        top = charts._top(highest)

        assert highest <= top <= max(highest * 1.34, 100)
        assert [len(tick.text) < 18 for tick in charts.stacked(
            names=["a"], moments=[today()], amounts={today(): [highest]}, step=DAY, now=now()
        ).ticks] == [True] * 5  # fmt: skip


def test_a_month_ends_where_the_next_begins() -> None:
    assert periods.month_of(date(2026, 12, 31)).until == datetime(2027, 1, 1, tzinfo=UTC)
    assert periods.month_before(date(2027, 1, 31)).since == datetime(2026, 12, 1, tzinfo=UTC)
    assert periods.last_days(7, now=now()).days(now()) == [
        (today() - timedelta(days=days)).date() for days in range(6, -1, -1)
    ]


def test_days_without_calls_are_not_in_the_rollups_but_in_no_sum_either() -> None:
    account, _ = customer()
    called(account, 5, at=days_ago(3))

    found = spending.by_day(account, periods.last_days(7, now=now()))

    assert found == {days_ago(3).date(): spending.Day(5, days_ago(3).replace(minute=0))}
    assert spending.total(spending.series(Scope(account, periods.last_days(2, now=now())), group="none")).calls == 0
