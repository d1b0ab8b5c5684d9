"""Step 7 of a call: its usage record, durable before the customer gets the last bytes.

Records are group-committed. While PostgreSQL is away they wait here, in bounded memory, and are written when it is
back; if this process dies before that, the call's last checkpoint counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from billing import usage
from billing.usage import Record
from gateway.batching import Batcher
from gateway.database import AWAY, Pools
from gateway.doorbell import Doorbell

logger = logging.getLogger(__name__)

BATCH = 200
WAIT_SECONDS = 5  # How long the end of an answer waits for its record.
RETRY_SECONDS = 0.5
UNWRITTEN_LIMIT = 10_000


class Recorder:
    def __init__(self, pools: Pools, doorbell: Doorbell) -> None:
        self._pools = pools
        self._doorbell = doorbell
        self._batches = Batcher(self._write, limit=BATCH)
        self._unwritten: dict[UUID, asyncio.Task[bool]] = {}

    @property
    def unwritten(self) -> dict[UUID, asyncio.Task[bool]]:
        """The calls whose records are not in the database; their holds must stay."""
        return self._unwritten

    @property
    def full(self) -> bool:
        """Whether so many records wait that no further call may be admitted."""
        return len(self._unwritten) >= UNWRITTEN_LIMIT

    async def record(self, record: Record) -> bool:
        """Whether the record became durable within WAIT_SECONDS. If not, it is tried again until it is."""
        writing = asyncio.create_task(self._write_until_durable(record))
        self._unwritten[record.id] = writing
        done, _ = await asyncio.wait([writing], timeout=WAIT_SECONDS)
        return bool(done) and writing.result()

    async def flush(self, seconds: float) -> None:
        """Before the process ends: wait for what is still unwritten."""
        if self._unwritten:
            _, lost = await asyncio.wait(self._unwritten.values(), timeout=seconds)
            if lost:
                logger.error("%d usage records were not written; their last checkpoints count", len(lost))

    async def _write_until_durable(self, record: Record) -> bool:
        while True:
            try:
                await self._batches.submit(record)
            except AWAY:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                # A defect of ours. The call stays unwritten, so its hold stays until the sweeper closes it in the open.
                logger.exception("the usage record of call %s cannot be written", record.id)
                return False
            del self._unwritten[record.id]
            self._doorbell.ring(record.account_id, call_id=record.id)
            return True

    async def _write(self, records: Sequence[Record]) -> Sequence[None]:
        try:
            async with self._pools.main.connection() as database:
                await usage.record(database, records)
        except AWAY as error:
            logger.warning("%d usage records wait for the database: %s", len(records), type(error).__name__)
            raise
        return [None] * len(records)
