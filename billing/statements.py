"""The read side of pages: what a customer has and what its calls cost."""

from __future__ import annotations

from accounts.models import Account
from billing.models import UsageRecord, Wallet


def wallet_of(account: Account) -> Wallet:
    """The wallet of the account; an empty one, unsaved, before the first credit."""
    return Wallet.objects.filter(account=account).first() or Wallet(account=account)


def recent_calls(account: Account, *, limit: int) -> list[UsageRecord]:
    """The newest calls of the account with their model and key; ids are in order of admission."""
    records = UsageRecord.objects.filter(account=account).select_related("model", "api_key")
    return list(records.order_by("-id")[:limit])
