"""The one definition of money: whole pico-USD (1e-12 USD) in a BIGINT.

A price in micro-USD per million tokens is the same number in pico-USD per token, so every charge is an exact
product of integers and nothing is rounded before it is shown.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction

PICO_PER_USD = 10**12
PICO_PER_CENT = 10**10
MAX_AMOUNT = 2**63 - 1  # A BIGINT: about 9.2 million USD in one row.


class InvalidAmount(ValueError):
    """The text is no amount of money, or one that cannot be held exactly."""


def from_usd(text: str) -> int:
    """Pico-USD of a decimal USD amount such as `10` or `0.25`. Raises InvalidAmount rather than round."""
    return _exact(text, PICO_PER_USD, "USD has at most 12 decimals here")


def from_cents(cents: int) -> int:
    """Pico-USD of US cents, as Stripe counts them."""
    return cents * PICO_PER_CENT


def rate_from_usd_per_million(text: str) -> int:
    """Pico-USD per token of a price in USD per million tokens such as `0.14`. Raises InvalidAmount."""
    return _exact(text, PICO_PER_USD // 10**6, "a price per million tokens has at most 6 decimals")


def usd(pico: int) -> str:
    """The exact amount as a decimal string without an exponent: `0.0000384`, `-1.5`, `10`."""
    sign = "-" if pico < 0 else ""
    whole, fraction = divmod(abs(pico), PICO_PER_USD)
    decimals = f"{fraction:012d}".rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def usd_per_million(rate: int) -> str:
    """A rate in pico-USD per token as USD per million tokens: `0.14`."""
    return usd(rate * 10**6)


def display(pico: int) -> str:
    """The amount for a person: `$12.34`, `$0.50`, `$0.0384`, `$0.0000384`. A balance is never rounded up.

    Below a dollar two decimals mean whole cents.
    """
    sign = "-" if pico < 0 else ""
    amount = abs(pico)
    cents, rest = divmod(amount, PICO_PER_CENT)
    if amount >= PICO_PER_USD or rest == 0:
        return f"{sign}${cents // 100:,}.{cents % 100:02d}"
    if amount >= PICO_PER_CENT:
        return f"{sign}$0.{amount // 10**8:04d}"
    digits = f"{amount:012d}"
    first = len(digits) - len(digits.lstrip("0"))
    return f"{sign}$0.{digits[: first + 3].rstrip('0')}"


def display_cents(cents: int) -> str:
    """US cents, as Stripe counts them, as `display` shows them."""
    return display(from_cents(cents))


def exactly(pico: int) -> str:
    """The whole amount with at least two decimals, as documents show it: `$12.34`, `-$0.0000384`, `$1,250.00`."""
    sign = "-" if pico < 0 else ""
    whole, fraction = divmod(abs(pico), PICO_PER_USD)
    return f"{sign}${whole:,}.{f'{fraction:012d}'.rstrip('0'):0<2}"


def display_in_column(pico: int) -> str:
    """The amount among others that are to be added up, all with six decimals: `$12.340000`, `-$0.000213`. Cut short."""
    sign = "-" if pico < 0 else ""
    micro = abs(pico) // 10**6
    if micro == 0 and pico:
        return f"{sign}<$0.000001"
    return f"{sign}${micro // 10**6:,}.{micro % 10**6:06d}"


def _exact(text: str, factor: int, precision: str) -> int:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise InvalidAmount(f"{text!r} is not an amount; write it like 0.25.") from None
    # Fraction is exact where Decimal would round to its context; the first test keeps 1e999999 from becoming one.
    if not value.is_finite() or abs(value.adjusted()) > 30:
        raise InvalidAmount(f"{text!r} is not an amount that can be held.")
    scaled = Fraction(value) * factor
    if scaled.denominator != 1:
        raise InvalidAmount(f"{text!r} is too precise: {precision}.")
    if abs(scaled) > MAX_AMOUNT:
        raise InvalidAmount(f"{text!r} is not an amount that can be held.")
    return int(scaled)
