"""The pages about people."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from accounts.access import Permission, requires
from accounts.models import Membership


@require_safe
@login_required
def settings(request: HttpRequest) -> HttpResponse:
    return render(request, "accounts/settings.html")


@require_safe
@requires(Permission.SEE_TEAM)
def team(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "accounts/team.html")


@require_safe
@requires(Permission.SEE_ACTIVITY)
def activity(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "accounts/activity.html")
