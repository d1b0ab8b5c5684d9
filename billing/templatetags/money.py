"""How pages and the admin show amounts: short for reading, with the exact amount in the title."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import money

register = template.Library()


@register.filter
def usd(pico: int) -> SafeString:
    """Pico-USD as `$12.34`; the exact amount appears on hover."""
    return format_html('<span class="money" title="{} USD">{}</span>', money.usd(pico), money.display(pico))


@register.filter
def cents(amount: int) -> SafeString:
    """US cents, as Stripe counts them, as `$12.34`."""
    return usd(money.from_cents(amount))


@register.filter
def usd_in_column(pico: int) -> SafeString:
    """As `usd`, with as many decimals as the other amounts of its column."""
    return format_html('<span class="money" title="{} USD">{}</span>', money.usd(pico), money.display_in_column(pico))


@register.filter
def per_million(rate: int) -> str:
    """Pico-USD per token as USD per million tokens with at least two decimals: `$0.028`, `$1.40`."""
    whole, _, decimals = money.usd_per_million(rate).partition(".")
    return f"${whole}.{decimals:0<2}"


@register.filter
def plain_usd(pico: int) -> str:
    """The same text without markup, where none can be: in titles and in announcements."""
    return money.display(pico)


@register.filter
def exact_usd(pico: int) -> str:
    """The amount to the last pico-dollar, all twelve decimals: what stands below each other can be added up."""
    sign = "-" if pico < 0 else ""
    whole, decimals = divmod(abs(pico), money.PICO_PER_USD)
    return f"{sign}{whole:,}.{decimals:012d}"
