"""Calls that cost nothing and left no record: those refused, and those that failed free after they were admitted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Sum

from accounts.models import Account
from billing.models import RefusedCalls, ReleasedHolds

WORDS = {
    "account_disabled": "the account was disabled",
    "client_closed": "you hung up before the answer began",
    "insufficient_balance": "the balance was too low",
    "invalid_prompt": "the model did not take the prompt",
    "invalid_request": "the request was not valid",
    "key_disabled": "the key was disabled",
    "method_not_allowed": "the method was not allowed",
    "model_not_found": "there is no such model",
    "model_unavailable": "the model was unavailable",
    "rate_limit_exceeded_concurrency": "too many calls at the same time",
    "rate_limit_exceeded_requests": "too many requests in a minute",
    "rate_limit_exceeded_tokens": "too many tokens in a minute",
    "request_exceeds_limit": "the request was larger than your limit",
    "request_too_large": "the body was too large",
    "service_unavailable": "our service was unavailable",
    "unknown_url": "there is no such address",
}


@dataclass(frozen=True, slots=True)
class FreeCalls:
    """Calls that ended in the same way. `status` is that of the answer; None where the call had been admitted."""

    words: str
    status: int | None
    code: str
    calls: int


def refused(account: Account, *, since: datetime, until: datetime) -> list[FreeCalls]:
    """Calls that were never admitted, in the hours from `since` to `until`, the most frequent first."""
    hours = RefusedCalls.objects.filter(account=account, hour__gte=since, hour__lt=until)
    rows = hours.values_list("status", "code").annotate(total=Sum("calls")).order_by("-total", "code")
    return [FreeCalls(WORDS.get(code, code), status, code, int(calls)) for status, code, calls in rows]


def failed(account: Account, *, since: datetime, until: datetime) -> list[FreeCalls]:
    """Calls that were admitted, failed before their answer began, and were free."""
    hours = ReleasedHolds.objects.filter(account=account, hour__gte=since, hour__lt=until)
    rows = hours.values_list("reason").annotate(total=Sum("calls")).order_by("-total", "reason")
    return [FreeCalls(WORDS.get(reason, "a fault of ours"), None, reason, int(calls)) for reason, calls in rows]
