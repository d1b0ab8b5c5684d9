"""What staff see first on the first page of the admin: the background work, and what banks want back."""

from __future__ import annotations

from typing import Any

from django import template

from billing import backlog
from billing.payments import disputes

register = template.Library()


@register.inclusion_tag("admin/_backlog.html")
def background_work() -> dict[str, Any]:
    return {"backlog": backlog.measure()}


@register.inclusion_tag("admin/_disputes.html")
def waiting_disputes() -> dict[str, Any]:
    return {"waiting": disputes.waiting()}
