"""Calls that cost nothing and left no record: those refused, and those that failed free after they were admitted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from accounts.models import Account

WORDS = {
    "account_disabled": "the account was disabled",
    "client_closed": "you hung up before the answer began",
    "context_length_exceeded": "the prompt was longer than the model's context",
    "idempotency_key_in_use": "the first call with this Idempotency-Key was still running",
    "idempotency_key_reused": "the Idempotency-Key was used with another body",
    "idempotent_answer_not_kept": "the answer of the first call was too large to be repeated",
    "insufficient_balance": "the balance was too low",
    "invalid_prompt": "the model did not take the prompt",
    "invalid_request": "the request was not valid",
    "key_budget_exceeded": "the spend cap of the key was reached",
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
    "unsupported_content_encoding": "the body was packed in an unknown way",
    "unsupported_model": "the model is of another type",
}


@dataclass(frozen=True, slots=True)
class FreeCalls:
    """Calls that ended in the same way. `status` is that of the answer; None where the call had been admitted."""

    status: int | None
    code: str
    calls: int

    @property
    def words(self) -> str:
        return WORDS.get(self.code, self.code if self.status else "a fault of ours")


def of(account: Account, *, since: datetime, until: datetime) -> list[FreeCalls]:
    """What the hours from `since` to `until` counted, the most frequent first."""
    with connection.cursor() as cursor:
        cursor.execute(_FREE, {"account": account.pk, "since": since, "until": until})
        return [FreeCalls(*row) for row in cursor.fetchall()]


_FREE = """
SELECT status, code, sum(calls)::bigint
  FROM billing_refusedcalls
 WHERE account_id = %(account)s AND hour >= %(since)s AND hour < %(until)s
 GROUP BY status, code
UNION ALL
SELECT NULL, reason, sum(calls)::bigint
  FROM billing_releasedholds
 WHERE account_id = %(account)s AND hour >= %(since)s AND hour < %(until)s
 GROUP BY reason
 ORDER BY 3 DESC, 2
"""
