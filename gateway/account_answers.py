"""What a program may ask about the account of its key, and the form of the answers. Amounts are decimal strings."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from apikeys.models import SpendPeriod
from billing.inquiries import Grouping
from billing.usage import Outcome, Source

Amount = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]{1,12})?$", description="USD, exact, as a decimal string.")]
Count = Annotated[int, Meta(ge=0)]


class KeyName(Struct):
    """A key of the account; `display` is the beginning and the end of its secret."""

    id: int
    name: str
    display: str


class TokenCounts(Struct):
    """`cached_tokens` are among the prompt's, `reasoning_tokens` among the completion's."""

    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    reasoning_tokens: Count
    total_tokens: Count


class Latency(Struct):
    """Milliseconds from the admission of the call; the first token only of a stream."""

    first_token_ms: Count | None
    duration_ms: Count | None


class GenerationAnswer(Struct):
    """One call. While it runs, `outcome`, `usage`, `usage_source` and `cost` are null."""

    id: str
    object: Literal["generation"]
    request_id: str
    created: int
    model: str
    streamed: bool
    status: Literal["in_progress", "ended"]
    outcome: Outcome | None
    finish_reason: str | None
    usage: TokenCounts | None
    usage_source: Source | None
    cost: Amount | None
    settled: bool
    latency: Latency
    api_key: KeyName


class BalanceAnswer(Struct):
    """`posted` is what was paid in less what was charged; `held` is set aside for calls that are not settled yet.

    `available` is the difference: what new calls can cost. Below zero, so much is owed.
    """

    object: Literal["balance"]
    currency: Literal["USD"]
    available: Amount
    held: Amount
    posted: Amount


class Left(Struct):
    """A limit, and what of it is left now."""

    limit: Count
    remaining: Count


class Limits(Struct):
    """Those that can refuse a call of this key: the account's, or tighter ones of the key itself."""

    requests_per_minute: Left
    tokens_per_minute: Left
    concurrent_requests: Left


class SpendCap(Struct):
    """What the key may spend in each period; null where only the balance counts. `held` is for calls that run now."""

    amount: Amount
    period: SpendPeriod
    spent: Amount
    held: Amount
    remaining: Amount
    resets: int | None


class KeyAnswer(Struct):
    """The key that asks."""

    id: int
    object: Literal["key"]
    name: str
    display: str
    created: int
    expires: int | None
    limits: Limits
    spend_cap: SpendCap | None


class UsageQuery(Struct):
    """Whole days of UTC, both included. By default the last 30, one row for each day that had calls."""

    start: date | UnsetType = UNSET
    end: date | UnsetType = UNSET
    group_by: list[Grouping] = msgspec.field(default_factory=lambda: ["day"])
    model: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    api_key: Annotated[int, Meta(ge=1, le=2**63 - 1)] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    page: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\.[0-9]{1,18}\.[0-9]{1,18}\Z")] | UnsetType = UNSET


class UsageRow(Struct):
    """`day`, `model` and `api_key` are null where it is not grouped by them."""

    day: date | None
    model: str | None
    api_key: KeyName | None
    calls: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    cost: Amount


class UsageAnswer(Struct):
    """Ordered by day. A call is in it once it is settled, a second or so after its end."""

    object: Literal["list"]
    currency: Literal["USD"]
    start: date
    end: date
    group_by: list[Grouping]
    data: list[UsageRow]
    has_more: bool
    next_page: str | None
