"""What the site does around every request of a person."""

from __future__ import annotations

from collections.abc import Callable

from allauth.account.adapter import get_adapter
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from accounts import audit


def remember_address(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """The audit trail says where a change came from. Which proxies are believed is decided by allauth's settings."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with audit.coming_from(_address(request)):
            return get_response(request)

    return middleware


def _address(request: HttpRequest) -> str | None:
    try:
        return str(get_adapter(request).get_client_ip(request))
    except PermissionDenied:  # A server on a Unix socket knows no address.
        return None
