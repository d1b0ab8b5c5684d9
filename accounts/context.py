"""What every page knows of the person who looks at it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts import access
from accounts.access import Permission


class Permissions:
    """For templates: `may.SEE_MONEY`."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def __getattr__(self, name: str) -> bool:
        return access.may(access.current(self._request), Permission[name])


def membership(request: HttpRequest) -> dict[str, Any]:
    """`membership` (falsy for strangers), `memberships` and `may`; asked of the database when a template looks."""
    return {
        "memberships": SimpleLazyObject(lambda: access.memberships(request)),
        "membership": SimpleLazyObject(lambda: access.current(request)),
        "may": Permissions(request),
    }
