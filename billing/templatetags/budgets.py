"""What keys with a spend cap have spent, for the pages of keys, which know the caps alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from django import template

from apikeys.models import ApiKey
from billing import budgets
from billing.budgets import Budget

register = template.Library()


@register.simple_tag
def with_budgets(keys: Iterable[ApiKey]) -> list[tuple[ApiKey, Budget | None]]:
    """Each key with its budget, if it has a cap; one query."""
    listed = list(keys)
    found = budgets.of_keys([key.pk for key in listed if key.spend_cap is not None], now=datetime.now(UTC))
    return [(key, found.get(key.pk)) for key in listed]


@register.simple_tag
def budget_of(key: ApiKey) -> Budget | None:
    return budgets.of_keys([key.pk], now=datetime.now(UTC)).get(key.pk)
