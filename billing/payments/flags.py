"""Accounts at which a person must look: a bank took a payment of theirs back, or warned of fraud.

A flag keeps an account from being charged by itself; it stops no calls and no payment that a person makes. It stands
until staff clear it, whatever becomes of the dispute.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from accounts import audit
from accounts.audit import Action
from accounts.models import User
from billing.models import Payment, PaymentFlag


def is_flagged(account_id: int) -> bool:
    return PaymentFlag.objects.filter(account_id=account_id, cleared_at=None).exists()


def flag(payment: Payment, *, cause: str, reason: str) -> None:
    """Flag the account of the payment, once for each cause: what staff have cleared stays cleared."""
    row = PaymentFlag(account_id=payment.account_id, payment=payment, cause=cause, reason=reason)
    PaymentFlag.objects.bulk_create([row], ignore_conflicts=True)


def clear(flags: Iterable[PaymentFlag], *, now: datetime, by: User) -> int:
    """Staff have looked. Returns how many of them stood until now."""
    cleared = 0
    for found in flags:
        with transaction.atomic():
            standing = PaymentFlag.objects.filter(pk=found.pk, cleared_at=None)
            if standing.update(cleared_at=now, cleared_by=by):
                audit.record(Action.FLAG_CLEARED, account=found.account, by=by, object=found.reason)
                cleared += 1
    return cleared
