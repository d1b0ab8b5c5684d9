"""What an account can spend, for the head of every page."""

from __future__ import annotations

from django import template
from django.utils.safestring import SafeString

from accounts.models import Account
from billing import funds
from billing.templatetags.money import usd

register = template.Library()


@register.simple_tag
def available(account: Account) -> SafeString:
    return usd(funds.wallet_of(account).available)
