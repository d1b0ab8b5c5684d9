"""The calls of an account, newest first, page by page, and one call in full.

An id is a UUIDv7, so ids are in order of admission and a time is a range of ids: pages follow each other by id, and a
range of time reads the partitions of its months only. A filter that few calls pass would read on for ever, so a page
looks at no more than `LOOKED_AT` calls; then it tells from where to search further back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.db import connection
from django.db.models import prefetch_related_objects

from accounts.models import Account
from billing import partitions
from billing.models import Hold, LateUsageRecord, PriceVersion, UsageRecord
from billing.pricing import Price, Rates, price_of

PAGE = 50
LOOKED_AT = 20_000
EXPORT_BATCH = 1000
OLDEST, NEWEST = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Search:
    account: Account
    since: datetime | None = None
    until: datetime | None = None
    key_id: int | None = None
    model_id: int | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Calls newest first. `newer` and `older` are the ids to go on from, where there is more; `looked_back_to` is set
    where the search ended before the page was full: there may be more before that moment."""

    calls: list[UsageRecord]
    newer: UUID | None
    older: UUID | None
    looked_back_to: datetime | None = None


def recent(account: Account, *, limit: int) -> list[UsageRecord]:
    """The newest calls, with their model and key."""
    records = UsageRecord.objects.filter(account=account).select_related("model", "api_key")
    return list(records.order_by("-id")[:limit])


def page(search: Search, *, before: UUID | None = None, after: UUID | None = None) -> Page:
    """The page that begins just before this call, or that ends just after it; the newest one without either."""
    if after is not None:
        calls = _newer_than(search, after, PAGE + 1)
        if len(calls) > PAGE:
            return Page(_named(calls[PAGE - 1 :: -1]), newer=calls[PAGE - 1].id, older=calls[0].id)
        before = None  # So few are newer that they are the newest page.
    calls = _older_than(search, before or NEWEST, PAGE + 1)
    newer = calls[0].id if calls and before is not None else None
    if len(calls) > PAGE:
        return Page(_named(calls[:PAGE]), newer=newer, older=calls[PAGE - 1].id)
    edge = _edge(search, before or NEWEST)
    return Page(_named(calls), newer=newer, older=edge, looked_back_to=moment_of(edge) if edge else None)


def batches(search: Search) -> Iterator[list[UsageRecord]]:
    """All calls, newest first, each batch by a short query of its own."""
    before: UUID | None = NEWEST
    while before is not None:
        calls = _older_than(search, before, EXPORT_BATCH)
        if calls:
            yield _named(calls)
        before = calls[-1].id if len(calls) == EXPORT_BATCH else _edge(search, before)


def moment_of(call_id: UUID) -> datetime:
    """When the call was admitted."""
    return datetime.fromtimestamp((call_id.int >> 80) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class ChargeLine:
    text: str
    tokens: int
    rate: int  # Pico-USD per token.

    @property
    def amount(self) -> int:
        return self.tokens * self.rate


@dataclass(frozen=True, slots=True)
class Call:
    """One call in full. `lines` add up to its price; `not_charged` is what of it the customer does not pay."""

    record: UsageRecord
    price: Price
    contract: bool
    rates: Rates
    lines: list[ChargeLine]
    late: bool

    @property
    def priced(self) -> int:
        return sum(line.amount for line in self.lines)

    @property
    def not_charged(self) -> int:
        return self.priced - self.record.charge

    @property
    def long_context(self) -> bool:
        return self.rates.context_from > 0


def find(account: Account, call_id: UUID) -> Call | None:
    records = UsageRecord.objects.select_related("model", "api_key", "transfer")
    record = records.filter(pk=call_id, account=account).first()
    if record is None:
        return None
    price = price_of(record.price_version_id)
    rates = price.rates(record.input_tokens)
    uncached = record.input_tokens - record.cached_input_tokens
    return Call(
        record=record,
        price=price,
        contract=PriceVersion.objects.filter(pk=price.version_id, account__isnull=False).exists(),
        rates=rates,
        lines=[
            ChargeLine("Input tokens", uncached, rates.input),
            ChargeLine("Cached input tokens", record.cached_input_tokens, rates.cached_input),
            ChargeLine("Output tokens", record.output_tokens, rates.output),
        ],
        late=LateUsageRecord.objects.filter(pk=call_id).exists(),
    )


def running(account: Account, call_id: UUID) -> Hold | None:
    """The hold of a call that has not ended yet."""
    return Hold.objects.select_related("model", "api_key").filter(pk=call_id, account_id=account.pk).first()


def _older_than(search: Search, before: UUID, limit: int) -> list[UsageRecord]:
    return list(UsageRecord.objects.raw(_OLDER, _parameters(search) | {"before": before, "limit": limit}))


def _newer_than(search: Search, after: UUID, limit: int) -> list[UsageRecord]:
    """Oldest first."""
    return list(UsageRecord.objects.raw(_NEWER, _parameters(search) | {"after": after, "limit": limit}))


def _edge(search: Search, before: UUID) -> UUID | None:
    """The last of the calls that one search looks at, if there are more behind it."""
    if search.key_id is None and search.model_id is None and search.outcome is None:
        return None  # Every call passes: what is not on the page does not exist.
    with connection.cursor() as cursor:
        cursor.execute(_EDGE, _parameters(search) | {"before": before})
        row = cursor.fetchone()
    return row[0] if row else None


def _parameters(search: Search) -> dict[str, int | str | UUID | None]:
    return {
        "account": search.account.pk,
        "since": partitions.first_id(search.since) if search.since else OLDEST,
        "until": partitions.first_id(search.until) if search.until else NEWEST,
        "key": search.key_id,
        "model": search.model_id,
        "outcome": search.outcome,
        "looked_at": LOOKED_AT,
    }


def _named(calls: list[UsageRecord]) -> list[UsageRecord]:
    prefetch_related_objects(calls, "model", "api_key")
    return calls


# Filters apply to the calls looked at, which the index (account, id) gives in order: the inner LIMIT bounds the work,
# the outer one ends it as soon as the page is full.
_FILTERED = """
SELECT * FROM ({looked_at}) looked_at
 WHERE (%(key)s::bigint IS NULL OR api_key_id = %(key)s::bigint)
   AND (%(model)s::bigint IS NULL OR model_id = %(model)s::bigint)
   AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s::text)
"""
_OF_ACCOUNT = """
    FROM billing_usagerecord
   WHERE account_id = %(account)s AND id >= %(since)s AND id < %(until)s"""
_LOOKED_AT = f"SELECT * {_OF_ACCOUNT} AND id < %(before)s ORDER BY id DESC LIMIT %(looked_at)s"
_OLDER = f"{_FILTERED.format(looked_at=_LOOKED_AT)} ORDER BY id DESC LIMIT %(limit)s"
_LOOKED_AT_NEWER = f"SELECT * {_OF_ACCOUNT} AND id > %(after)s ORDER BY id LIMIT %(looked_at)s"
_NEWER = f"{_FILTERED.format(looked_at=_LOOKED_AT_NEWER)} ORDER BY id LIMIT %(limit)s"
_EDGE = f"SELECT id {_OF_ACCOUNT} AND id < %(before)s ORDER BY id DESC OFFSET %(looked_at)s - 1 LIMIT 1"
