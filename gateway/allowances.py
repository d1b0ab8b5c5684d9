"""What a key may use in a minute and at once, what of that is in use, and how customers are told.

An **Allowance** is one set of limits: those of an account, for all of its keys together, or those that one key has of
its own. The latter come on top, so they matter only where they are tighter. A **Standing** is an allowance and what of
it is in use. A **Look** is what all allowances of a key say to a call. Pure arithmetic: what is in use is known to
`limits` and `local_limits`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from django.conf import settings

from apikeys.keys import KeyFacts
from gateway.errors import RateLimited, RequestNeverFits

Holder = Literal["account", "key"]
Limit = Literal["requests", "tokens", "concurrency"]

LONGEST_WAIT_SECONDS = 60  # Some clients do not wait longer, and none needs to: that is the whole window.


class Amounts(NamedTuple):
    """Requests and tokens in a minute, and calls that run at the same time."""

    requests: int
    tokens: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Allowance:
    holder: Holder
    limits: Amounts


@dataclass(frozen=True, slots=True)
class Standing:
    """In `reset` seconds no request or token of this allowance is in use, if nobody calls."""

    allowance: Allowance
    used: Amounts
    reset: float

    def left(self, limit: Limit) -> int:
        most, used = getattr(self.allowance.limits, limit), getattr(self.used, limit)
        return int(max(most - used, 0))


@dataclass(frozen=True, slots=True)
class Refusal:
    """`wait` is in seconds."""

    limit: Limit
    by: Allowance
    wait: float


@dataclass(frozen=True, slots=True)
class Look:
    """The account's standing, and the key's if it has an allowance of its own; after the call, if it was let in."""

    standings: Sequence[Standing]
    refusal: Refusal | None = None

    def tightest(self, limit: Limit) -> Standing:
        """The one that has the least left."""
        return min(self.standings, key=lambda standing: standing.left(limit))


def of(key: KeyFacts) -> tuple[Allowance, ...]:
    """The account's allowance, and the key's if any limit of its own is tighter: others could never refuse."""
    account = Amounts(key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests)
    own = Amounts(
        _tighter(key.key_requests_per_minute, account.requests),
        _tighter(key.key_tokens_per_minute, account.tokens),
        _tighter(key.key_concurrent_requests, account.concurrency),
    )
    shared = Allowance("account", account)
    return (shared,) if own == account else (shared, Allowance("key", own))


def _tighter(own: int | None, accounts: int) -> int:
    return accounts if own is None else min(own, accounts)


def insist_that_fits(allowances: Sequence[Allowance], *, tokens: int) -> None:
    """Raises RequestNeverFits for a call larger than a whole limit: no wait could help."""
    for allowance in allowances:
        if tokens > allowance.limits.tokens:
            raise RequestNeverFits(
                f"This request can use {tokens:,} tokens, more than the limit of {_told(allowance, 'tokens')}. "
                f"Ask for fewer max_tokens, send less, or {_advice(allowance)}.",
                param="max_tokens",
            )


def headers(look: Look) -> dict[str, str]:
    """As OpenAI spells them, of the tightest allowance; the same on an answer and on a refusal."""
    requests, tokens = look.tightest("requests"), look.tightest("tokens")
    return {
        "x-ratelimit-limit-requests": str(requests.allowance.limits.requests),
        "x-ratelimit-limit-tokens": str(tokens.allowance.limits.tokens),
        "x-ratelimit-remaining-requests": str(requests.left("requests")),
        "x-ratelimit-remaining-tokens": str(tokens.left("tokens")),
        "x-ratelimit-reset-requests": duration(requests.reset),
        "x-ratelimit-reset-tokens": duration(tokens.reset),
    }


def rate_limited(refusal: Refusal) -> RateLimited:
    """A client that waits exactly as long as this says gets in, unless others of its account were faster."""
    wait = min(max(math.ceil(refusal.wait), 1), LONGEST_WAIT_SECONDS)
    until = "when a running request has ended" if refusal.limit == "concurrency" else f"in {wait} s"
    return RateLimited(
        f"You have reached the limit of {_told(refusal.by, refusal.limit)}. "
        f"Try again {until} (see Retry-After), or {_advice(refusal.by)}.",
        limit=refusal.limit,
        retry_after=wait,
    )


def duration(seconds: float) -> str:
    """Rounded up to milliseconds, in Go's notation, which OpenAI's clients parse: 60ms, 1.5s, 1m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes}m{milliseconds / 1000:g}s" if minutes else f"{milliseconds / 1000:g}s"


def _told(allowance: Allowance, limit: Limit) -> str:
    figure = {
        "requests": f"{allowance.limits.requests:,} requests per minute",
        "tokens": f"{allowance.limits.tokens:,} tokens per minute",
        "concurrency": f"{allowance.limits.concurrency:,} concurrent requests",
    }[limit]
    return f"{figure} of {'this API key' if allowance.holder == 'key' else 'your account'}"


def _advice(allowance: Allowance) -> str:
    if allowance.holder == "key":
        return "raise the limits of this key on the dashboard"
    return f"write to {settings.SUPPORT_EMAIL} for higher limits"
