"""The pages of API keys."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import Permission, requires
from accounts.models import Membership


@require_safe
@never_cache
@requires(Permission.SEE_KEYS)
def keys(request: HttpRequest, membership: Membership) -> HttpResponse:
    return render(request, "apikeys/keys.html")
