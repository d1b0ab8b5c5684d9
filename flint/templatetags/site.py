"""What every page knows of the site it belongs to. Tags and not a context processor: error pages have no request."""

from __future__ import annotations

from typing import Any

from django import template
from django.conf import settings
from django.forms import Form
from django.http.request import split_domain_port
from django.template import Context
from django.urls import reverse

THEMES = ("light", "dark")

register = template.Library()


@register.simple_tag
def is_sandbox() -> bool:
    return bool(settings.ENVIRONMENT == "sandbox")


@register.simple_tag
def money_is_simulated() -> bool:
    return bool(settings.STRIPE_SECRET_KEY) and not settings.STRIPE_LIVEMODE


@register.simple_tag
def stripe_simulator() -> str:
    """Where the simulator of the payment service is steered; empty where there is none."""
    return f"{settings.STRIPE_API_BASE}/control/" if settings.STRIPE_SECRET_KEY.startswith("sk_sim_") else ""


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


@register.simple_tag
def welcome_credit() -> int:
    """What a new account gets, in pico-USD."""
    return int(settings.WELCOME_CREDIT)


@register.simple_tag(takes_context=True)
def host_for_passkeys(context: Context) -> str:
    """Empty where passkeys work; else the address where they would: browsers bind them to names, never to numbers."""
    host, port = split_domain_port(context["request"].get_host())
    is_number = host.startswith("[") or host.replace(".", "").isdigit()
    return f"http://localhost:{port}" if is_number else ""


@register.filter
def browser(user_agent: str) -> str:
    """As much of it as a person recognises: «Firefox on Linux»."""
    names = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome", "Safari": "Safari"}
    systems = ["Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux"]
    name = next((shown for word, shown in names.items() if word in user_agent), "")
    system = next((word for word in systems if word in user_agent), "")
    return " on ".join(filter(None, (name, system))) or user_agent[:40] or "unknown"


@register.filter
def plain(form: Form) -> Form:
    """The form without allauth's placeholders, which repeat the labels."""
    for field in form.fields.values():
        field.widget.attrs.pop("placeholder", None)
    return form
