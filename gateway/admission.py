"""Step 5 of a call: its hold, in micro-batches, so that one statement admits all calls that came together.

Nobody waits for another customer's wallet: calls of a locked wallet are asked again in a statement of their own, on
connections kept for waiting. The first call of a capped key in a day, a month or ever opens its budget there, too.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from psycopg import errors as database_errors

from billing import budgets, ledger
from billing.ledger import Answer, Ask
from gateway.batching import Batcher
from gateway.database import AWAY, Pools
from gateway.errors import GatewayError, InsufficientBalance, KeyBudgetExceeded, Unavailable

BATCH = 200
# A wallet is locked for a moment whenever it is settled. Only one that stays locked is worth a connection that waits.
SHORT_PAUSES = (0.005, 0.02)
ADMISSION_SECONDS = 5  # Longer than a wallet's lock is waited for. A call that takes more is better asked again.


class Admission:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._batches = Batcher(functools.partial(self._reserve, wait=False), limit=BATCH)
        self._locked: dict[int, Batcher[Ask, Answer]] = {}

    async def admit(self, ask: Ask) -> None:
        """Commit the hold, or raise: then there is none, or, after Unavailable, one that we will find.

        Raises InsufficientBalance, KeyBudgetExceeded, Unavailable.
        """
        try:
            async with asyncio.timeout(ADMISSION_SECONDS):
                answer = await self._ask(ask)
        except database_errors.LockNotAvailable:
            raise Unavailable("Your account is busy with another operation. Please try again.") from None
        except (*AWAY, TimeoutError):
            # The commit may have happened; the heartbeat finds a hold that no call of ours knows.
            raise Unavailable("Our database is away for a moment. Nothing was charged; please try again.") from None
        if not answer.admitted:
            raise _refusal(ask, answer)

    async def _ask(self, ask: Ask) -> Answer:
        answer = await self._unlocked(ask)
        while answer.unopened:  # Once, unless the cap gets another period just now.
            async with self._pools.waiting.connection() as database:
                await ledger.open_budget(database, ask)
            answer = await self._unlocked(ask)
        if not answer.admitted and answer.has_room_for(ask.amount):
            answer = await self._alone(ask)
        return answer

    async def _unlocked(self, ask: Ask) -> Answer:
        answer = await self._batches.submit(ask)
        for seconds in SHORT_PAUSES:
            if answer.locked:
                await asyncio.sleep(seconds)
                answer = await self._batches.submit(ask)
        if answer.locked:
            answer = await self._wait_for(ask)
        return answer

    async def _reserve(self, asks: Sequence[Ask], *, wait: bool) -> Sequence[Answer]:
        pool = self._pools.waiting if wait else self._pools.main
        async with pool.connection() as database:
            return await ledger.reserve(database, asks, wait=wait)

    async def _alone(self, ask: Ask) -> Answer:
        """It was refused together with others that came before it; alone it may fit."""
        (answer,) = await self._reserve([ask], wait=False)
        if answer.locked:
            (answer,) = await self._reserve([ask], wait=True)
        return answer

    async def _wait_for(self, ask: Ask) -> Answer:
        """All calls of one locked wallet wait together, in one statement at a time."""
        batcher = self._locked.get(ask.account_id)
        if batcher is None:
            batcher = Batcher(functools.partial(self._reserve, wait=True), limit=BATCH)
            self._locked[ask.account_id] = batcher
        try:
            return await batcher.submit(ask)
        finally:
            if batcher.idle and self._locked.get(ask.account_id) is batcher:
                del self._locked[ask.account_id]


def _refusal(ask: Ask, answer: Answer) -> GatewayError:
    """Of a key with a cap the cap is told first: whoever has the key need not know what the account has."""
    share = answer.share
    if share is None or share.left is None or share.left >= ask.amount:
        return InsufficientBalance(needed=ask.amount, available=answer.available or 0)
    resets_at = budgets.resets_at(share.period, ask.admitted_at)
    return KeyBudgetExceeded(
        needed=ask.amount, left=share.left, cap=share.cap, period=share.period, resets_at=resets_at
    )
