"""How long a sign-in lasts, and what the list of sessions knows of it.

Django prolongs a session whenever something is stored in it. Here a sign-in ends for good, after SESSION_COOKIE_AGE or,
for staff, STAFF_SESSION_SECONDS. allauth's own middleware would write a row for every page; this one once a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast

from allauth.account.adapter import get_adapter
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers

from accounts.models import User

SEEN_EVERY = timedelta(minutes=1)


def follow(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The middleware. It comes after the one that knows the user."""

    def middleware(request: HttpRequest) -> HttpResponse:
        signed_in = bool(request.session.session_key) and request.user.is_authenticated
        if signed_in:
            _look_at(request, cast(User, request.user), datetime.now(UTC))
        response = get_response(request)
        if signed_in and not response.has_header("Cache-Control"):
            add_never_cache_headers(response)  # allauth's pages about a person do not all say so themselves.
        return response

    return middleware


def _look_at(request: HttpRequest, user: User, now: datetime) -> None:
    session = UserSession.objects.filter(session_key=request.session.session_key).first()
    if session is None:
        # allauth writes the row at every sign-in, so somebody took it away to end this session.
        logout(request)
        return
    request.signed_in_at = session.created_at  # type: ignore[attr-defined]
    longest = settings.STAFF_SESSION_SECONDS if user.is_staff else settings.SESSION_COOKIE_AGE
    if now - session.created_at > timedelta(seconds=longest):
        session.delete()
        logout(request)
    elif now - session.last_seen_at > SEEN_EVERY:
        UserSession.objects.filter(pk=session.pk).update(last_seen_at=now, **_client(request))


def signed_in_lately(request: HttpRequest) -> bool:
    """Whether the person proved who they are by signing in to this very session, as lately as a proof is good for."""
    signed_in_at: datetime | None = getattr(request, "signed_in_at", None)
    good_for = timedelta(seconds=settings.ACCOUNT_REAUTHENTICATION_TIMEOUT)
    return signed_in_at is not None and datetime.now(UTC) - signed_in_at < good_for


def _client(request: HttpRequest) -> dict[str, str]:
    longest = UserSession._meta.get_field("user_agent").max_length
    agent = request.headers.get("User-Agent", "").replace("\0", "")[:longest]
    return {"ip": get_adapter().get_client_ip(request), "user_agent": agent}
