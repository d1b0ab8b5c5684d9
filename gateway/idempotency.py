"""Idempotency-Key: a repeat of a call gets the first answer, and costs nothing.

A key belongs to an account and an endpoint for 24 hours. The first call **claims** it. When the call has completed, its
answer is **kept** with it, before the customer gets the last bytes: the JSON, or the events of the stream as they were
sent, which a repeat gets at once and in the same order. Answers above ANSWER_LIMIT are not kept; a repeat is told so.
A repeat counts as a request of the minute, without tokens.

A call that was refused, failed, was hung up on or was cut short leaves its key **free**, and a repeat is a new call. So
does the call of a process that died: a running call has a hold, and the sweeper ends the holds of the dead.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from gateway import pruning
from gateway.database import AWAY, Pools
from gateway.errors import AnswerNotKept, IdempotencyKeyInUse, IdempotencyKeyReused, InvalidRequest, Unavailable
from gateway.models import IdempotentCall
from gateway.requests import INLINE_BYTES, Parsed

logger = logging.getLogger(__name__)

KEPT_HOURS = 24
ANSWER_LIMIT = 2**20  # Bytes.
KEY_LENGTH = 255
FORGOTTEN_AT_ONCE = 200  # Rows, each with an answer of up to ANSWER_LIMIT.
CLAIM_SECONDS = 30  # A call that has claimed a key has a hold by then, or never will.


@dataclass(slots=True)
class Claim:
    """The key that a running call has, and what it has answered so far."""

    account_id: int
    endpoint: str
    key: str
    fingerprint: bytes
    call_id: UUID
    frames: bytearray = field(default_factory=bytearray, repr=False)
    completed: bool = False  # Then a repeat is never a new call, whether the answer could be kept or not.
    kept: bool = False

    def add(self, frame: bytes) -> None:
        """What is beyond the limit will not be kept, so it need not be held either."""
        if len(self.frames) <= ANSWER_LIMIT:
            self.frames += frame


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer of an earlier call with the same key and body."""

    streamed: bool
    answer: bytes


async def claim_for(parsed: Parsed, *, key: str, account_id: int, call_id: UUID) -> Claim:
    """Raises InvalidRequest for a key that is none."""
    if not 1 <= len(key) <= KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"An Idempotency-Key has 1 to {KEY_LENGTH} visible ASCII characters.", param="Idempotency-Key"
        )
    is_small = parsed.prompt_bytes <= INLINE_BYTES
    fingerprint = _fingerprint(parsed) if is_small else await asyncio.to_thread(_fingerprint, parsed)
    return Claim(account_id, parsed.request.ENDPOINT.path, key, fingerprint, call_id)


def _fingerprint(parsed: Parsed) -> bytes:
    """The same for the same values, however they were spaced and ordered."""
    values = msgspec.json.decode(msgspec.json.encode(parsed.fields))
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).digest()


class Idempotency:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    async def claim(self, claim: Claim) -> Kept | None:
        """None: the key is this call's now.

        Raises IdempotencyKeyReused, IdempotencyKeyInUse, AnswerNotKept, Unavailable.
        """
        try:
            async with self._pools.main.connection() as database:
                while not await _claim(database, claim):
                    if known := await _known(database, claim):
                        return known
        except AWAY:
            raise Unavailable("Our database is away for a moment. Nothing was charged; please try again.") from None
        return None

    async def keep(self, claim: Claim, *, streamed: bool, answer: bytes) -> None:
        """Keep the whole answer of a completed call. Where that cannot be done now, `claim.kept` stays False."""
        claim.completed = True
        fitting = answer if len(answer) <= ANSWER_LIMIT else None
        try:
            async with self._pools.main.connection() as database:
                await database.execute(_KEEP, {"streamed": streamed, "answer": fitting, **_place(claim)})
        except AWAY as error:
            logger.warning("the answer of call %s is not kept: %s", claim.call_id, type(error).__name__)
        except Exception:
            # A defect of ours. The usage record must be written whatever becomes of the answer.
            logger.exception("the answer of call %s is not kept", claim.call_id)
        else:
            claim.kept = True

    async def free(self, claim: Claim) -> None:
        """Let a repeat of a call that did not complete be a new one. If that cannot be done now, the claim lapses."""
        if claim.completed:
            return
        try:
            async with self._pools.main.connection() as database:
                await database.execute(_FREE, _place(claim))
        except AWAY as error:
            logger.warning("the key of call %s is free later: %s", claim.call_id, type(error).__name__)


async def _claim(database: AsyncConnection[object], claim: Claim) -> bool:
    cursor = await database.execute(_CLAIM, {"fingerprint": claim.fingerprint, **_place(claim)})
    return cursor.rowcount == 1


async def _known(database: AsyncConnection[object], claim: Claim) -> Kept | None:
    """What the call has answered that claimed the key; None if it has just left it free."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_KNOWN, _place(claim))
        row = await cursor.fetchone()
    if row is None:
        return None
    fingerprint, call_id, streamed, answer, is_over = row
    if bytes(fingerprint) != claim.fingerprint:
        raise IdempotencyKeyReused
    if answer is not None:
        return Kept(streamed, bytes(answer))
    if is_over:
        raise AnswerNotKept(generation_id=f"req_{call_id.hex}")
    raise IdempotencyKeyInUse


def _place(claim: Claim) -> dict[str, object]:
    return {"account": claim.account_id, "endpoint": claim.endpoint, "key": claim.key, "call": claim.call_id}


def forget(*, now: datetime) -> int:
    """Delete the keys whose time is over, and the answers with them; returns how many."""
    old = IdempotentCall.objects.filter(claimed_at__lt=now - timedelta(hours=KEPT_HOURS))
    return pruning.delete(old, at_once=FORGOTTEN_AT_ONCE)


# A call that completed without its answer being kept was charged, so its key is never free before its time.
_CLAIM = f"""
INSERT INTO gateway_idempotentcall AS known (account_id, endpoint, key, fingerprint, call_id, claimed_at, streamed)
VALUES (%(account)s, %(endpoint)s, %(key)s, %(fingerprint)s, %(call)s, now(), false)
ON CONFLICT (account_id, endpoint, key) DO UPDATE
   SET fingerprint = excluded.fingerprint, call_id = excluded.call_id, claimed_at = excluded.claimed_at,
       answered_at = NULL, answer = NULL
 WHERE known.claimed_at < now() - interval '{KEPT_HOURS} hours'
    OR (known.answered_at IS NULL AND known.claimed_at < now() - interval '{CLAIM_SECONDS} seconds'
        AND NOT EXISTS (SELECT FROM billing_hold WHERE id = known.call_id AND resolved_at IS NULL)
        AND NOT EXISTS (SELECT FROM billing_usagerecord WHERE id = known.call_id AND outcome = 'completed'))
"""  # noqa: S608  # Composed of its own constants.

_OF_CLAIM = "account_id = %(account)s AND endpoint = %(endpoint)s AND key = %(key)s"

_KNOWN = f"""
SELECT fingerprint, call_id, streamed, answer,
       answered_at IS NOT NULL
       OR EXISTS (SELECT FROM billing_usagerecord record WHERE record.id = call_id AND outcome = 'completed')
  FROM gateway_idempotentcall WHERE {_OF_CLAIM}
"""  # noqa: S608

_KEEP = f"""
UPDATE gateway_idempotentcall SET answered_at = now(), streamed = %(streamed)s, answer = %(answer)s
 WHERE {_OF_CLAIM} AND call_id = %(call)s
"""  # noqa: S608

_FREE = f"DELETE FROM gateway_idempotentcall WHERE {_OF_CLAIM} AND call_id = %(call)s"  # noqa: S608
