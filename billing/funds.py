"""What an account has: its wallet, the promotional credit in it, and how long that lasts at the pace of late.

Amounts are pico-USD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, Q

from accounts.models import Account
from billing.models import CreditLot, Wallet

SHOWN_LOTS = 20
DAY = timedelta(days=1)


def wallet_of(account: Account) -> Wallet:
    """The wallet of the account, read once for each `account`; an empty one, unsaved, before the first credit."""
    try:
        return account.wallet
    except Wallet.DoesNotExist:
        return Wallet(account=account)


def promotional(account: Account, *, now: datetime) -> list[CreditLot]:
    """The promotional credit that is left, in the order in which it is spent; of very many lots the first ones."""
    lots = CreditLot.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=now), wallet_id=account.pk, remaining__gt=0, kind="promotional"
    )
    return list(lots.select_related("transfer").order_by(F("expires_at").asc(nulls_last=True), "id")[:SHOWN_LOTS])


@dataclass(frozen=True, slots=True)
class Runway:
    """How long the available money lasts. `days` is None where nobody can tell; `why` says on what it rests."""

    days: int | None
    why: str


def runway(*, available: int, lots: Sequence[CreditLot], spent: int, over: timedelta, now: datetime) -> Runway:
    """How many days `available` lasts if `spent`, spent in the time `over`, is the pace from now on.

    Promotional credit is spent first, soonest expiry first, and what expires unspent does not count.
    """
    if available <= 0:
        return Runway(0, "Nothing is left to spend.")
    if over < DAY:
        return Runway(None, "Known a day after the first call.")
    if spent <= 0:
        return Runway(None, "Nothing was spent in the last 7 days.")
    pace = spent / (over / DAY)  # A guess of days: the one place where money may be a float.
    days = 0.0
    for lot in lots:
        usable = min(lot.remaining, available)
        available -= usable
        until_expiry = (lot.expires_at - now) / DAY if lot.expires_at else usable / pace
        days += max(0.0, min(usable / pace, until_expiry - days if lot.expires_at else until_expiry))
    return Runway(int(days + available / pace), f"At the pace of the last {round(over / DAY)} days.")
