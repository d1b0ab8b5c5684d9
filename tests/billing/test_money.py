from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import money


@given(st.integers(min_value=-money.MAX_AMOUNT, max_value=money.MAX_AMOUNT))
def test_every_amount_survives_its_text(pico: int) -> None:
    assert money.from_usd(money.usd(pico)) == pico


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "$0.00"),
        (38_400_000, "$0.0000384"),
        (123_000_000, "$0.000123"),
        (1, "$0.000000000001"),
        (38_456_789_000, "$0.0384"),
        (12_345_678_900_000_000, "$12,345.67"),
        (-1_999_999_999_999, "-$1.99"),
        (10_000_000_000, "$0.01"),
        (-500_000_000_000, "-$0.50"),
        (500_000_000_001, "$0.5000"),
        (9_990_000_000, "$0.00999"),
    ],
)
def test_a_person_reads_amounts_without_exponent_and_never_rounded_up(pico: int, text: str) -> None:
    assert money.display(pico) == text


@pytest.mark.parametrize(
    "text",
    ["", "abc", "NaN", "Infinity", "1e40", "1e999999", "0.0000000000001", "1.0000000000000000000000000000000001"],
)
def test_what_cannot_be_held_exactly_is_refused(text: str) -> None:
    with pytest.raises(money.InvalidAmount):
        money.from_usd(text)


def test_a_price_per_million_tokens_is_its_micro_dollars_per_token_in_pico() -> None:
    assert money.rate_from_usd_per_million("0.14") == 140_000
    assert money.usd_per_million(140_000) == "0.14"


def test_a_price_finer_than_a_pico_dollar_per_token_is_refused() -> None:
    with pytest.raises(money.InvalidAmount, match="6 decimals"):
        money.rate_from_usd_per_million("0.0000001")


@pytest.mark.parametrize(
    ("pico", "shown"),
    [
        (0, "$0.000000"),
        (10 * money.PICO_PER_USD, "$10.000000"),
        (1_234 * money.PICO_PER_USD + 999_999_999_999, "$1,234.999999"),
        (-213_480_000, "-$0.000213"),
        (999_999, "<$0.000001"),
        (-1, "-<$0.000001"),
    ],
)
def test_amounts_of_a_column_have_the_same_decimals(pico: int, shown: str) -> None:
    assert money.display_in_column(pico) == shown
