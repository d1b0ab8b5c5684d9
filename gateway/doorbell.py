"""Rings for settlement: one Celery message for all accounts that recorded usage since the last one.

Off the event loop, without retries, and never awaited by a call: the records are in PostgreSQL, and a sweep finds those
whose doorbell was lost.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from uuid import UUID

from billing.tasks import settle_usage

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.1
REQUESTS_TOLD = 200  # Of more, the worker's log names only the accounts.


class Doorbell:
    def __init__(self) -> None:
        self._accounts: set[int] = set()
        self._calls: list[UUID] = []
        self._ringer: asyncio.Task[None] | None = None

    def ring(self, account_id: int, *, call_id: UUID) -> None:
        self._accounts.add(account_id)
        if len(self._calls) < REQUESTS_TOLD:
            self._calls.append(call_id)
        if self._ringer is None:
            self._ringer = asyncio.create_task(self._ring_gathered(), context=Context())  # For no one call.

    async def flush(self) -> None:
        """Wait for the message on its way, if any."""
        if self._ringer is not None:
            await self._ringer

    async def _ring_gathered(self) -> None:
        try:
            while self._accounts:
                await asyncio.sleep(GATHER_SECONDS)
                accounts, self._accounts = sorted(self._accounts), set()
                calls, self._calls = self._calls, []
                await asyncio.to_thread(_send, accounts, [f"req_{call_id.hex}" for call_id in calls])
        finally:
            self._ringer = None


def _send(account_ids: list[int], request_ids: list[str]) -> None:
    about = {"account_ids": account_ids, "request_ids": request_ids}
    try:
        settle_usage.apply_async(kwargs=about, retry=False, ignore_result=True, expires=60)
    except Exception as error:  # kombu raises transport errors of many kinds; none of them matters here.
        logger.warning("the settlement doorbell could not ring (the sweep will find the records): %s", error)
