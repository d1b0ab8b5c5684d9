"""Rings for settlement: one Celery message for all accounts that recorded usage since the last one.

Off the event loop, without retries, and never awaited by a call: the records are in PostgreSQL, and a sweep finds those
whose doorbell was lost.
"""

from __future__ import annotations

import asyncio
import logging

from billing.tasks import settle_usage

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.1


class Doorbell:
    def __init__(self) -> None:
        self._accounts: set[int] = set()
        self._ringer: asyncio.Task[None] | None = None

    def ring(self, account_id: int) -> None:
        self._accounts.add(account_id)
        if self._ringer is None:
            self._ringer = asyncio.create_task(self._ring_gathered())

    async def flush(self) -> None:
        """Wait for the message on its way, if any."""
        if self._ringer is not None:
            await self._ringer

    async def _ring_gathered(self) -> None:
        try:
            while self._accounts:
                await asyncio.sleep(GATHER_SECONDS)
                accounts, self._accounts = sorted(self._accounts), set()
                await asyncio.to_thread(_send, accounts)
        finally:
            self._ringer = None


def _send(account_ids: list[int]) -> None:
    try:
        settle_usage.apply_async(kwargs={"account_ids": account_ids}, retry=False, ignore_result=True, expires=60)
    except Exception as error:  # kombu raises transport errors of many kinds; none of them matters here.
        logger.warning("the settlement doorbell could not ring (the sweep will find the records): %s", error)
