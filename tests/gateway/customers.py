"""A customer of the running stack: an account with a key and money, and what it sees."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import redis
from openai import OpenAI

from accounts.models import Account, Tier
from apikeys import keys
from apikeys.models import ApiKey
from billing.models import Hold, UsageRecord, Wallet
from gateway.limits import MICRO
from tests import factories
from tests.stack import until

FUNDS = 10 * 10**12  # Pico-USD that a customer starts with.


@dataclass
class Customer:
    account: Account
    key: ApiKey
    secret: str

    @property
    def wallet(self) -> Wallet:
        return Wallet.objects.get(pk=self.account.pk)

    @property
    def records(self) -> list[UsageRecord]:
        return list(UsageRecord.objects.filter(account=self.account).order_by("id"))

    @property
    def holds(self) -> list[Hold]:
        return list(Hold.objects.filter(account_id=self.account.pk).order_by("id"))

    def taken(self) -> tuple[int, int, int]:
        """What Redis counts: requests and tokens of the last minute, and running calls."""
        with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
            window, tokens, leases = (self._limit(kind) for kind in ("window", "tokens", "leases"))
            return client.zcard(window), int(client.hget(tokens, "total") or 0), client.zcard(leases)

    def let_a_minute_pass(self, *, but: float = 0) -> None:
        """For Redis: all that is counted there becomes so much older, but for some seconds."""
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            for kind in ("window", "leases"):
                for call, _ in client.zrange(self._limit(kind), 0, -1, withscores=True):
                    client.zincrby(self._limit(kind), int((but - 60) * MICRO), call)

    def _limit(self, kind: str) -> str:
        return f"limit:{{{self.account.pk}}}:{kind}"

    def openai(self, api_base: str) -> OpenAI:
        """A context manager: leaving it closes its connections."""
        return OpenAI(base_url=api_base, api_key=self.secret, max_retries=0)

    def settled(self, calls: int, seconds: float = 5.0) -> list[UsageRecord]:
        """The records of all calls, once there are so many and they are charged."""
        done = UsageRecord.objects.filter(account=self.account, settled_at__isnull=False)
        until(lambda: done.count() >= calls and not self.holds, seconds)
        return self.records

    def only_record(self) -> UsageRecord:
        """The record of its one call, once it is charged."""
        (record,) = self.settled(1)
        return record


def customer(*, pico: int = FUNDS, tier: str = "Enterprise") -> Customer:
    account = factories.account(tier=Tier.objects.get(name=tier))
    if pico:
        factories.credit(account, pico)
    key, secret = keys.create(account=account, name="a key", now=datetime.now(UTC))
    return Customer(account, key, secret)


def chat(content: str = "How do tides work?", **fields: Any) -> dict[str, Any]:
    return {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": content}], **fields}


def all_at_once(urls: list[str], secret: str, body: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The same JSON call to every URL at the same moment; (status, answer) of each."""
    return together([(url, secret) for url in urls], body)


def together(asks: list[tuple[str, str]], body: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The same, with a key for each URL."""

    async def calls() -> list[tuple[int, dict[str, Any]]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(call(session, url, secret) for url, secret in asks))

    async def call(session: aiohttp.ClientSession, url: str, secret: str) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {secret}"}
        async with session.post(f"{url}/v1/chat/completions", data=json.dumps(body), headers=headers) as answer:
            return answer.status, await answer.json()

    return asyncio.run(calls())
