"""What staff see first on the first page of the admin: the background work, and what of the money waits for them."""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context

from billing import backlog, waiting
from billing.payments import disputes

register = template.Library()


@register.inclusion_tag("admin/_backlog.html")
def background_work() -> dict[str, Any]:
    return {"backlog": backlog.measure()}


@register.inclusion_tag("admin/_disputes.html")
def waiting_disputes() -> dict[str, Any]:
    return {"waiting": disputes.waiting()}


@register.inclusion_tag("admin/_waiting.html", takes_context=True)
def waiting_money(context: Context) -> dict[str, Any]:
    return {"waiting": waiting.measure(), "perms": context["perms"]}
