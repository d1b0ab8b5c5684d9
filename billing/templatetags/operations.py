"""The state of the background work, on the first page of the admin."""

from __future__ import annotations

from typing import Any

from django import template

from billing import backlog

register = template.Library()


@register.inclusion_tag("admin/_backlog.html")
def background_work() -> dict[str, Any]:
    return {"backlog": backlog.measure()}
