"""Who gets into the admin: staff who signed in where everybody does, in production with a second factor."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect

SECOND_FACTORS = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
_allowed = admin.site.has_permission
_login = secure_admin_login(admin.site.login)


def may_enter(request: HttpRequest) -> bool:
    """Replaces the admin's `has_permission`, which every page of it asks."""
    return _allowed(request) and not _lacks_factor(request)


def sign_in(request: HttpRequest) -> HttpResponseBase:
    """Replaces the admin's `login`, where it sends whoever may not enter."""
    if _allowed(request) and _lacks_factor(request):
        messages.warning(request, "The admin needs a second factor: add a passkey or an authenticator app first.")
        return redirect("mfa_index")
    response: HttpResponseBase = _login(request)
    return response


def _lacks_factor(request: HttpRequest) -> bool:
    return settings.STAFF_NEED_SECOND_FACTOR and not is_mfa_enabled(request.user, SECOND_FACTORS)
