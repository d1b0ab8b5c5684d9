"""Step 2 of a call: from the Authorization header to the facts of a key.

A key that is malformed, or whose checksum is wrong, is refused without any I/O. Facts are kept for at most one second,
so a revoked key is refused everywhere a second later; nothing else shortens or prolongs that. Keys that come together
are found by one statement. When a key was last used is remembered here and written every ten seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from apikeys import keys, secret
from apikeys.keys import KeyFacts
from gateway.batching import Batcher
from gateway.database import AWAY, Pools
from gateway.errors import AccountDisabled, InvalidKey, KeyDisabled, Unavailable

CACHE_SECONDS = 1.0
CACHE_SIZE = 20_000
BATCH = 500
FIND_SECONDS = 5  # Behind a statement that hangs, too.
NOTE_SECONDS = 10  # How often the last uses of keys are written: one statement, not one for each call.


class Keys:
    """The cache is keyed by the whole digest: two keys that differ anywhere never meet."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._known: dict[bytes, tuple[float, KeyFacts | None]] = {}
        self._batches = Batcher(self._find_all, limit=BATCH)
        self._lookups: dict[bytes, asyncio.Task[KeyFacts | None]] = {}
        self._used: dict[int, float] = {}

    async def authenticate(self, authorization: str) -> KeyFacts:
        """Raises InvalidKey, KeyDisabled, AccountDisabled, and Unavailable without a database."""
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not secret.well_formed(token):
            raise InvalidKey
        facts = await self._find(secret.digest(token))
        if facts is None:
            raise InvalidKey
        if facts.account_disabled:
            raise AccountDisabled
        if facts.key_disabled:
            raise KeyDisabled
        self._used[facts.key_id] = time.monotonic()
        return facts

    async def note_uses(self) -> None:
        """Write down when keys were last used since the last time; what cannot be written now is kept for the next."""
        if not self._used:
            return
        used, self._used = self._used, {}
        try:
            async with self._pools.waiting.connection() as database:
                now = time.monotonic()
                await keys.note_uses(database, {key_id: now - at for key_id, at in used.items()})
        except BaseException:
            self._used = used | self._used
            raise

    async def _find(self, digest: bytes) -> KeyFacts | None:
        until, facts = self._known.get(digest, (0.0, None))
        if time.monotonic() < until:
            return facts
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(digest))
            self._lookups[digest] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(digest, None))
        try:
            async with asyncio.timeout(FIND_SECONDS):
                return await asyncio.shield(lookup)
        except (*AWAY, TimeoutError):
            raise Unavailable("Keys cannot be checked for a moment. Nothing was charged; please try again.") from None

    async def _look_up(self, digest: bytes) -> KeyFacts | None:
        asked_at = time.monotonic()  # The facts are as old as the question.
        facts = await self._batches.submit(digest)
        if len(self._known) >= CACHE_SIZE:
            self._known.clear()
        self._known[digest] = (asked_at + CACHE_SECONDS, facts)
        return facts

    async def _find_all(self, digests: Sequence[bytes]) -> Sequence[KeyFacts | None]:
        async with self._pools.main.connection() as database:
            found = await keys.find(database, digests)
        return [found.get(digest) for digest in digests]
