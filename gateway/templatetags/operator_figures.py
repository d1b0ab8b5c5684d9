"""How the operators' pages show rates, shares and times; a dash where nothing was measured."""

from __future__ import annotations

from decimal import Decimal

from django import template

from billing.templatetags.figures import UNKNOWN, duration

register = template.Library()


@register.filter
def rate(number: Decimal) -> str:
    """`1,250`, `12.3`, `0.05`: as many digits as can be read."""
    if number == 0:
        return "0"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


@register.filter
def percent(share: Decimal | None) -> str:
    return UNKNOWN if share is None else f"{share} %"


@register.filter
def percentiles(milliseconds: tuple[int, int] | None) -> str:
    if milliseconds is None:
        return UNKNOWN
    return " / ".join(duration(each) for each in milliseconds)
