"""allauth's hooks for this site."""

from __future__ import annotations

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is not typed.
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        # Operators create accounts (manage.py create_account) until sign-up has its own pages.
        return False
