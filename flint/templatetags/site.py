"""What every page knows of the site it belongs to. Tags and not a context processor: error pages have no request."""

from __future__ import annotations

from typing import Any

from django import template
from django.conf import settings
from django.template import Context
from django.urls import reverse

THEMES = ("light", "dark")

register = template.Library()


@register.simple_tag
def is_sandbox() -> bool:
    return bool(settings.ENVIRONMENT == "sandbox")


@register.simple_tag
def api_base() -> str:
    """The base URL that customers give to their SDK."""
    return f"{settings.SITE_URL.rstrip('/')}/v1"


@register.simple_tag
def support_email() -> str:
    return str(settings.SUPPORT_EMAIL)


@register.simple_tag(takes_context=True)
def theme(context: Context) -> str:
    """The theme that the person chose, or none: then the browser decides. Error pages have no request."""
    request = context.get("request")
    chosen = request.COOKIES.get("theme", "") if request else ""
    return chosen if chosen in THEMES else ""


@register.inclusion_tag("_nav_item.html", takes_context=True)
def nav_item(context: Context, view: str, text: str) -> dict[str, Any]:
    """An entry of the navigation; the pages below its address belong to it."""
    url, path = reverse(view), context["request"].path
    return {"url": url, "text": text, "here": path == url or (url != "/" and path.startswith(url))}
