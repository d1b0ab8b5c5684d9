"""What examples of calls are filled with."""

from __future__ import annotations

from datetime import UTC, datetime

from django import template

from billing import price_list

register = template.Library()


@register.simple_tag
def example_model() -> str:
    """A model that is for sale; without one, a word to replace."""
    offers = price_list.offers(now=datetime.now(UTC))
    return offers[0].model.public_id if offers else "MODEL"
