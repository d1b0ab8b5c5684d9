"""What became of each attempt at a backend, also of those that a customer never notices and never pays.

Attempts of this process wait here for a moment and are written a few hundred at a time; no call waits for that. What a
dying process has not written is lost, which costs no call: its record says where it went.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from billing import partitions
from gateway import pruning
from gateway.database import AWAY, Pools
from gateway.models import Attempt

logger = logging.getLogger(__name__)

Result = Attempt.Result

WRITE_SECONDS = 0.5
BATCH = 1_000
UNWRITTEN_LIMIT = 20_000
KEPT_DAYS = 90
FORGOTTEN_AT_ONCE = 5_000


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One row: the fields of `gateway.models.Attempt`."""

    call_id: UUID
    number: int
    model_id: int
    backend: str
    started_at: datetime
    result: Result
    fault: str
    status: int | None
    first_event_ms: int | None
    duration_ms: int
    input_tokens: int
    output_tokens: int
    estimated: bool
    upstream_cost: int | None = None


class Journal:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._unwritten: deque[Made] = deque(maxlen=UNWRITTEN_LIMIT)  # The oldest make room.

    def note(self, made: Made) -> None:
        self._unwritten.append(made)

    async def write(self) -> None:
        """Raises one of AWAY; then what was not written waits on."""
        while self._unwritten:
            batch = [self._unwritten.popleft() for _ in range(min(len(self._unwritten), BATCH))]
            try:
                async with self._pools.main.connection() as database:
                    await database.execute(_NOTE, [msgspec.json.encode(batch).decode()])
            except AWAY:
                room = UNWRITTEN_LIMIT - len(self._unwritten)
                self._unwritten.extendleft(reversed(batch[-room:] if room else []))
                raise


def forget(*, now: datetime) -> int:
    """Delete what is older than KEPT_DAYS; returns how many. The ids of calls are in order of time."""
    old = Attempt.objects.filter(call_id__lt=partitions.first_id(now - timedelta(days=KEPT_DAYS)))
    return pruning.delete(old, at_once=FORGOTTEN_AT_ONCE)


_COLUMNS = """call_id, number, model_id, backend, started_at, result, fault, status, first_event_ms, duration_ms,
    input_tokens, output_tokens, estimated, upstream_cost"""

# A batch whose answer was lost comes again.
_NOTE = f"""
INSERT INTO gateway_attempt ({_COLUMNS})
SELECT {_COLUMNS}
  FROM jsonb_to_recordset(%s::jsonb) AS made(
       call_id uuid, number smallint, model_id bigint, backend text, started_at timestamptz, result text,
       fault text, status smallint, first_event_ms int, duration_ms int, input_tokens bigint, output_tokens bigint,
       estimated boolean, upstream_cost bigint)
    ON CONFLICT (call_id, number) DO NOTHING
"""  # noqa: S608  # The columns are the constant above.
