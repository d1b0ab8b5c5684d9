"""Keeps a production off books that hold money of the sandbox or of tests: it would pay for calls that cost us."""

from __future__ import annotations

from django.conf import settings
from django.db.models import Q

from billing.models import LedgerAccount, Transfer


class NotReal(Exception):
    """The sentence says to the operator what to do."""


def insist() -> None:
    """Raise NotReal where this is a production and such money was ever moved in its books.

    A site that is itself a test may have it. Raises django.db.Error where the database cannot tell.
    """
    if not settings.PRODUCTION or settings.STRIPE_TEST_MONEY:
        return
    simulated = LedgerAccount.SIMULATED_CLEARING
    if Transfer.objects.filter(Q(debit=simulated) | Q(credit=simulated)).exists():
        raise NotReal(
            "FLINT_ENV is production, but the ledger in DATABASE_URL holds money of a sandbox or of a test "
            f"({simulated}), which would pay for real calls. Give production a database of its own; a site that is "
            "itself a test says STRIPE_TEST_MONEY=true."
        )
