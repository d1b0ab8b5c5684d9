"""The pages about people."""

from __future__ import annotations

from typing import cast

from allauth.mfa.utils import is_mfa_enabled
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from django.conf import settings as django_settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts import audit
from accounts.access import Permission, requires
from accounts.forms import ActivityFilter
from accounts.models import Membership, User

YEAR_SECONDS = 365 * 24 * 3600
EVENTS_PER_PAGE = 50


@require_safe
@login_required
@never_cache
def settings(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    facts = {
        "factors": is_mfa_enabled(request.user),
        "providers": bool(get_social_adapter().list_apps(request)),
        "memberships": user.memberships.select_related("account").order_by("id"),
    }
    return render(request, "accounts/settings.html", facts)


@require_POST
@login_required
def theme(request: HttpRequest) -> HttpResponse:
    """Remember how pages look in this browser; what is neither light nor dark leaves it to the browser."""
    response = redirect("accounts:settings")
    chosen = request.POST.get("theme", "")
    if chosen in ("light", "dark"):
        secure = django_settings.SESSION_COOKIE_SECURE
        response.set_cookie("theme", chosen, max_age=YEAR_SECONDS, secure=secure, httponly=True, samesite="Lax")
    else:
        response.delete_cookie("theme", samesite="Lax")
    return response


@require_safe
@never_cache
@requires(Permission.SEE_ACTIVITY)
def activity(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = ActivityFilter(request.GET, account=membership.account)
    chosen = form.cleaned_data if form.is_valid() else {}
    before = request.GET.get("before", "")
    events = audit.events(
        account=membership.account,
        group=chosen.get("group", ""),
        person=chosen.get("person"),
        before=int(before) if before.isdecimal() else None,
    )
    found = list(events[: EVENTS_PER_PAGE + 1])
    page = found[:EVENTS_PER_PAGE]
    query = {name: value for name, value in chosen.items() if value}
    context = {
        "form": form,
        "lines": [(event, audit.sentence(event)) for event in page],
        "filtered": bool(query),
        "newest": f"?{urlencode(query)}" if before else "",
        "older": f"?{urlencode({**query, 'before': page[-1].pk})}" if len(found) > len(page) else "",
    }
    return render(request, "accounts/activity.html", context)
