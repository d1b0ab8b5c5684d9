"""What every page knows of the site it belongs to. Tags and not a context processor: error pages have no request."""

from __future__ import annotations

from django import template
from django.conf import settings

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
