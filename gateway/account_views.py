"""What a program asks about the account of its key. Free, and bound by no limit of calls.

A key sees all of its account, and nothing of another one: that is a 404, as if it did not exist.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from django.http import HttpResponse
from psycopg import AsyncConnection

from apikeys import keys
from apikeys.keys import KeyFacts
from billing import budgets, inquiries, money, periods
from billing.budgets import Budget
from billing.inquiries import Generation, Grouping, Place, Used
from billing.usage import Outcome, Source
from gateway import requests
from gateway.account_answers import (
    BalanceAnswer,
    GenerationAnswer,
    KeyAnswer,
    KeyName,
    Latency,
    Left,
    Limits,
    SpendCap,
    TokenCounts,
    UsageAnswer,
    UsageQuery,
    UsageRow,
)
from gateway.allowances import Limit, Look
from gateway.database import AWAY
from gateway.errors import GenerationNotFound, InvalidRequest, Unavailable
from gateway.exchange import Exchange
from gateway.views import GatewayView, json_response

LIMITS: tuple[Limit, ...] = ("requests", "tokens", "concurrency")
QUERY_FIELDS = 50
DAYS_SHOWN = 30
DAYS_AT_MOST = 366
_DEFAULT_STRETCH = timedelta(days=DAYS_SHOWN - 1)

_GENERATION_ID = re.compile(
    r"(?:chatcmpl-|cmpl-|req_)?([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII | re.IGNORECASE
)
_ID_PREFIXES = {"completion": "cmpl-", "embedding": "req_"}


class AccountView(GatewayView):
    counted = False

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with self.process.pools.reading.connection() as database:
                yield database
        except AWAY:
            raise Unavailable("Our database is away or busy for a moment. Please try again.") from None

    @property
    def key(self) -> KeyFacts:
        assert self.request.key is not None  # noqa: S101  # dispatch authenticated.
        return self.request.key


class GenerationView(AccountView):
    async def get(self, request: Exchange, generation_id: str) -> HttpResponse:
        call_id = _call_id(generation_id)
        async with self.database() as database:
            found = await inquiries.generation(database, account_id=self.key.account_id, call_id=call_id)
        if found is None:
            raise _not_found()
        return json_response(_generation(found))


class BalanceView(AccountView):
    async def get(self, request: Exchange) -> HttpResponse:
        async with self.database() as database:
            balance = await inquiries.balance(database, account_id=self.key.account_id)
        amounts = (money.usd(amount) for amount in (balance.available, balance.held, balance.posted))
        return json_response(BalanceAnswer("balance", "USD", *amounts))


class UsageView(AccountView):
    async def get(self, request: Exchange) -> HttpResponse:
        query = _query(request.META["QUERY_STRING"])
        first, last = _days(query, today=datetime.now(UTC).date())
        async with self.database() as database:
            rows = await inquiries.usage(
                database,
                account_id=self.key.account_id,
                period=periods.of_days(first, last),
                by=query.group_by,
                limit=query.limit + 1,
                after=_place(query.page) if query.page else None,
                model=query.model or None,
                api_key_id=query.api_key or None,
            )
        shown = rows[: query.limit]
        more = len(rows) > query.limit
        answer = UsageAnswer(
            object="list",
            currency="USD",
            start=first,
            end=last,
            group_by=query.group_by,
            data=[_row(row, query.group_by) for row in shown],
            has_more=more,
            next_page=_page(shown[-1].place) if more else None,
        )
        return json_response(answer)


class KeyView(AccountView):
    async def get(self, request: Exchange) -> HttpResponse:
        look = await self.process.limits.look(self.key)
        async with self.database() as database:
            name = await keys.naming(database, self.key.key_id)
            budget = await budgets.of_key(database, self.key.key_id, now=datetime.now(UTC))
        answer = KeyAnswer(
            id=self.key.key_id,
            object="key",
            name=name.name,
            display=name.display,
            created=int(name.created_at.timestamp()),
            expires=int(name.expires_at.timestamp()) if name.expires_at else None,
            limits=Limits(*(_left(look, limit) for limit in LIMITS)),
            spend_cap=_cap(budget) if budget else None,
        )
        return json_response(answer)


def _left(look: Look, limit: Limit) -> Left:
    standing = look.tightest(limit)
    return Left(getattr(standing.allowance.limits, limit), standing.left(limit))


def _cap(budget: Budget) -> SpendCap:
    return SpendCap(
        amount=money.usd(budget.cap),
        period=budget.period,
        spent=money.usd(budget.spent),
        held=money.usd(budget.held),
        remaining=money.usd(budget.left),
        resets=int(budget.resets_at.timestamp()) if budget.resets_at else None,
    )


def _call_id(text: str) -> UUID:
    """Of the id of an answer, of its x-request-id, or bare."""
    digits = _GENERATION_ID.fullmatch(text)
    if digits is None:
        raise _not_found()
    return UUID(digits[1])


def _not_found() -> GenerationNotFound:
    return GenerationNotFound(
        "Your account has no generation of this id. Calls that were refused, or failed free of charge, leave none."
    )


def _generation(call: Generation) -> GenerationAnswer:
    return GenerationAnswer(
        id=f"{_ID_PREFIXES.get(call.model_type, 'chatcmpl-')}{call.id.hex}",
        object="generation",
        request_id=f"req_{call.id.hex}",
        created=int(call.admitted_at.timestamp()),
        model=call.model,
        streamed=call.streamed,
        status="ended" if call.outcome else "in_progress",
        outcome=Outcome(call.outcome) if call.outcome else None,
        finish_reason=call.finish_reason or None,
        usage=_tokens(call) if call.outcome else None,
        usage_source=Source(call.source) if call.source else None,
        cost=money.usd(call.charge) if call.outcome else None,
        settled=call.settled,
        latency=Latency(call.first_token_ms, call.duration_ms),
        api_key=KeyName(call.api_key_id, call.api_key_name, call.api_key_display),
    )


def _tokens(call: Generation) -> TokenCounts:
    return TokenCounts(
        prompt_tokens=call.input_tokens,
        cached_tokens=call.cached_input_tokens,
        completion_tokens=call.output_tokens,
        reasoning_tokens=call.reasoning_tokens,
        total_tokens=call.input_tokens + call.output_tokens,
    )


def _query(text: str) -> UsageQuery:
    """Unknown parameters are ignored; several groupings are given one by one, or with commas.

    Raises InvalidRequest.
    """
    try:
        given = parse_qs(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
    except ValueError:
        raise InvalidRequest(f"A query has at most {QUERY_FIELDS} parameters.") from None
    fields: dict[str, Any] = {name: given[name][-1] for name in UsageQuery.__struct_fields__ if name in given}
    for name in fields:
        if "\0" in "".join(given[name]):
            raise InvalidRequest("A query cannot hold the character \\u0000.", param=name)
    if "group_by" in given:
        fields["group_by"] = [name for name in ",".join(given["group_by"]).split(",") if name]
    try:
        return msgspec.convert(fields, UsageQuery, strict=False)
    except msgspec.ValidationError as fault:
        raise requests.explained(str(fault)) from None


def _days(query: UsageQuery, *, today: date) -> tuple[date, date]:
    """The first and the last day, none of them in the future. Raises InvalidRequest."""
    last = min(query.end or today, today)
    first = query.start or max(last, date.min + _DEFAULT_STRETCH) - _DEFAULT_STRETCH
    if first > last:
        raise InvalidRequest("`start` is after `end`, or in the future.", param="start")
    if (last - first).days >= DAYS_AT_MOST:
        raise InvalidRequest(f"`start` and `end` span more than {DAYS_AT_MOST} days.", param="start")
    return first, last


def _row(used: Used, by: list[Grouping]) -> UsageRow:
    key = KeyName(used.api_key_id, used.api_key_name or "", used.api_key_display or "")
    return UsageRow(
        day=used.day if "day" in by else None,
        model=used.model,
        api_key=key if "key" in by else None,
        calls=used.calls,
        prompt_tokens=used.input_tokens,
        cached_tokens=used.cached_input_tokens,
        completion_tokens=used.output_tokens,
        total_tokens=used.input_tokens + used.output_tokens,
        cost=money.usd(used.charge),
    )


def _page(place: Place) -> str:
    return f"{place.day.isoformat()}.{place.model_id}.{place.api_key_id}"


def _place(page: str) -> Place:
    day, model_id, api_key_id = page.split(".")
    try:
        return Place(date.fromisoformat(day), int(model_id), int(api_key_id))
    except ValueError:
        raise InvalidRequest("This is no `next_page` of ours.", param="page") from None
