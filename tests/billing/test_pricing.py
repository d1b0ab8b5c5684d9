from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.db import IntegrityError
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing
from billing.models import PriceRate, PriceVersion
from billing.pricing import Price, Rates, Schedule, Usage
from tests import factories
from tests.billing import stage

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)

rate = st.integers(min_value=0, max_value=10**9)
tokens = st.integers(min_value=0, max_value=2_000_000)


@st.composite
def prices(draw: Callable[[st.SearchStrategy[int]], int]) -> Price:
    starts = {0, *(draw(tokens) for _ in range(draw(st.integers(min_value=0, max_value=3))))}
    bands = tuple(Rates(start, draw(rate), draw(rate), draw(rate)) for start in sorted(starts))
    return Price(1, NOW, None, bands)


@st.composite
def usages(draw: Callable[[st.SearchStrategy[int]], int]) -> Usage:
    total = draw(tokens)
    return Usage(total, draw(tokens), draw(st.integers(min_value=0, max_value=total)))


@given(price=prices(), usage=usages())
def test_a_charge_is_the_exact_sum_of_its_parts(price: Price, usage: Usage) -> None:
    band = max((band for band in price.bands if band.context_from <= usage.input_tokens), key=lambda b: b.context_from)
    uncached = usage.input_tokens - usage.cached_input_tokens
    parts = [(uncached, band.input), (usage.cached_input_tokens, band.cached_input), (usage.output_tokens, band.output)]
    assert price.charge(usage) == sum(count * pico for count, pico in parts)


@given(price=prices(), usage=usages(), more_input=tokens, more_output=tokens)
def test_no_usage_within_the_bounds_costs_more_than_the_ceiling(
    price: Price, usage: Usage, more_input: int, more_output: int
) -> None:
    ceiling = price.ceiling(
        input_tokens=usage.input_tokens + more_input, output_tokens=usage.output_tokens + more_output
    )
    assert price.charge(usage) <= ceiling


def test_reasoning_is_part_of_the_output_and_costs_nothing_more() -> None:
    price = Price(1, NOW, None, (Rates(0, 2, 1, 5),))
    assert price.charge(Usage(10, 20, 4, 0)) == price.charge(Usage(10, 20, 4, 20)) == 6 * 2 + 4 * 1 + 20 * 5


@pytest.mark.parametrize(
    ("prompt", "charge"), [(99, 99 * 2), (100, 100 * 20), (101, 101 * 20), (0, 0), (1000, 200_000)]
)
def test_the_band_of_the_prompt_prices_the_whole_call(prompt: int, charge: int) -> None:
    price = Price(1, NOW, None, (Rates(0, 2, 2, 5), Rates(100, 20, 20, 50), Rates(1000, 200, 200, 500)))
    assert price.charge(Usage(prompt, 0)) == charge


class TestSchedule:
    def price(self, version: int, starts_at: datetime, ends_at: datetime | None) -> Price:
        return Price(version, starts_at, ends_at, (Rates(0, version, version, version),))

    def test_a_price_is_in_force_from_its_first_moment_until_before_its_last(self) -> None:
        end = NOW + timedelta(hours=1)
        schedule = Schedule([(1, None, self.price(1, NOW, end)), (1, None, self.price(2, end, None))])
        found = [schedule.in_force(1, None, at) for at in (NOW - TICK, NOW, end - TICK, end, end + TICK)]
        assert [price and price.version_id for price in found] == [None, 1, 1, 2, 2]

    def test_a_contract_price_replaces_the_list_price_of_its_account_while_it_lasts(self) -> None:
        end = NOW + timedelta(hours=1)
        schedule = Schedule([(1, None, self.price(1, NOW, None)), (1, 7, self.price(2, NOW, end))])
        asked = [(7, NOW), (8, NOW), (None, NOW), (7, end)]
        found = [schedule.in_force(1, account, at) for account, at in asked]
        assert [price and price.version_id for price in found] == [2, 1, 1, 1]

    def test_without_a_price_a_model_is_not_for_sale(self) -> None:
        schedule = Schedule([(1, 7, self.price(1, NOW, None))])
        assert schedule.in_force(1, 8, NOW) is None
        assert schedule.in_force(2, 7, NOW) is None


@pytest.mark.django_db
class TestSetPrice:
    def test_the_first_price_starts_at_once_and_cached_tokens_cost_the_input_price(self) -> None:
        now = datetime.now(UTC)
        version = factories.price(input=2, output=5, now=now)
        assert (version.starts_at, version.ends_at) == (now, None)
        assert pricing.price_of(version.pk).bands == (Rates(0, 2, 2, 5),)

    def test_a_price_for_cached_tokens_is_kept(self) -> None:
        model, now = factories.language_model(), datetime.now(UTC)
        version = pricing.set_price(model=model, rates={"input": 2, "cached_input": 1, "output": 5}, now=now)
        assert pricing.price_of(version.pk).charge(Usage(10, 1, 4)) == 6 * 2 + 4 * 1 + 5

    def test_the_next_price_starts_with_notice_and_ends_the_one_before(self) -> None:
        first, now = factories.price(), datetime.now(UTC)
        second = factories.price(first.model, input=3, now=now)
        first.refresh_from_db()
        assert first.ends_at == second.starts_at == now + pricing.NOTICE

    def test_a_price_needs_five_seconds_of_notice(self) -> None:
        first, now = factories.price(), datetime.now(UTC)
        with pytest.raises(pricing.PriceRefused, match="at least 5 s"):
            factories.price(first.model, starts_at=now + pricing.NOTICE - TICK, now=now)
        factories.price(first.model, starts_at=now + pricing.NOTICE, now=now)

    def test_a_first_contract_price_needs_notice_too_because_the_list_price_is_in_use(self) -> None:
        first, account, now = factories.price(), factories.account(), datetime.now(UTC)
        with pytest.raises(pricing.PriceRefused):
            factories.price(first.model, account=account, starts_at=now, now=now)
        contract = factories.price(first.model, account=account, now=now)
        first.refresh_from_db()
        assert (contract.starts_at, first.ends_at) == (now + pricing.NOTICE, None)

    def test_a_price_is_not_scheduled_further_ahead_than_a_year(self) -> None:
        first, now = factories.price(), datetime.now(UTC)
        with pytest.raises(pricing.PriceRefused, match="366 days"):
            factories.price(first.model, starts_at=now + timedelta(days=367), now=now)

    def test_cached_input_does_not_cost_more_than_input(self) -> None:
        rates = {"input": 5, "cached_input": 6, "output": 5}
        with pytest.raises(pricing.PriceRefused, match="must not cost more"):
            pricing.set_price(model=factories.language_model(), rates=rates, now=datetime.now(UTC))

    def test_a_scheduled_price_stays(self) -> None:
        first, now = factories.price(), datetime.now(UTC)
        tomorrow = factories.price(first.model, starts_at=now + timedelta(days=1), now=now)
        for starts_at in (None, now + timedelta(hours=1), now + timedelta(days=1)):
            with pytest.raises(pricing.PriceRefused, match="a scheduled price stays"):
                factories.price(first.model, starts_at=starts_at, now=now)
        factories.price(first.model, starts_at=now + timedelta(days=1) + TICK, now=now)
        tomorrow.refresh_from_db()
        assert tomorrow.ends_at == tomorrow.starts_at + TICK

    @pytest.mark.parametrize(
        "rates",
        [
            {},
            {"input": 1},
            {"output": 1},
            {"input": 0, "output": 1},
            {"input": 1, "output": -1},
            {"input": 1, "output": pricing.MAX_RATE + 1},
        ],
    )
    def test_an_incomplete_free_or_absurd_price_is_refused(self, rates: dict[str, int]) -> None:
        model = factories.language_model()
        with pytest.raises(pricing.PriceRefused):
            pricing.set_price(model=model, rates=rates, now=datetime.now(UTC))
        assert not PriceVersion.objects.filter(model=model).exists()

    def test_an_unknown_meter_is_refused(self) -> None:
        with pytest.raises(IntegrityError, match="rate_meter_known"):
            pricing.set_price(
                model=factories.language_model(), rates={"input": 1, "output": 1, "video": 1}, now=datetime.now(UTC)
            )


@pytest.mark.usefixtures("committed")
def test_eight_prices_at_the_same_time_become_one_after_the_other() -> None:
    model = factories.price().model

    done = stage.at_the_same_time(*[partial(factories.price, model, input=number) for number in range(1, 9)])

    made = [version for version in done if isinstance(version, PriceVersion)]
    assert made
    assert all(isinstance(result, PriceVersion | pricing.PriceRefused) for result in done), done
    assert PriceVersion.objects.filter(model=model, ends_at=None).count() == 1
    assert PriceRate.objects.filter(version__model=model).count() == 3 * (1 + len(made))


@pytest.mark.usefixtures("committed")
def test_the_schedule_of_a_gateway_is_what_the_orm_sees() -> None:
    now = datetime.now(UTC)
    superseded, account = factories.price(now=now), factories.account()
    factories.price(superseded.model, input=3, now=now)
    factories.price(superseded.model, input=1, account=account, now=now)
    over = PriceVersion.objects.create(
        model=factories.language_model(), starts_at=now - timedelta(days=2), ends_at=now - timedelta(days=1)
    )

    schedule = stage.as_gateway(pricing.load_schedule)

    for at in (now, now + pricing.NOTICE - TICK, now + pricing.NOTICE):
        for account_id in (None, account.pk):
            for model_id in {*PriceVersion.objects.exclude(pk=over.pk).values_list("model_id", flat=True)}:
                assert schedule.in_force(model_id, account_id, at) == in_force_by_orm(model_id, account_id, at)
    assert schedule.in_force(over.model_id, None, now - timedelta(hours=36)) is None


def in_force_by_orm(model_id: int, account_id: int | None, at: datetime) -> Price | None:
    versions = PriceVersion.objects.filter(model_id=model_id, starts_at__lte=at).exclude(ends_at__lte=at)
    contract = versions.filter(account__pk=account_id).first() if account_id else None
    version = contract or versions.filter(account__isnull=True).first()
    return pricing.price_of(version.pk) if version else None
