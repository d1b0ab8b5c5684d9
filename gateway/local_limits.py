"""The limits of one account as one process knows them, for the time in which Redis is away.

The same rules as `limits.lua`: an exact sliding window of a minute, and one lease for each running call. Nothing is
shared, so with N processes a customer may get up to N times the limits; and it starts empty.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from apikeys.keys import KeyFacts

MINUTE = 60.0
CONCURRENCY_WAIT = 1.0  # Nobody knows when a running call ends.


@dataclass(slots=True)
class Taken:
    """One call of the last minute. `tokens` are those it may use, and once it is over those it used."""

    call_id: UUID
    at: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Look:
    """What the limits say: which one refuses ("" for none) and for how long, and what is left until when (seconds)."""

    refused: str
    wait: float
    requests_left: int
    tokens_left: int
    reset: float


@dataclass(slots=True)
class LocalWindow:
    taken: deque[Taken] = field(default_factory=deque)
    leases: set[UUID] = field(default_factory=set)

    def take(self, key: KeyFacts, *, call_id: UUID, tokens: int, now: float) -> Look:
        """Take one request, `tokens` and a lease, all or nothing. `now` is in seconds of a clock that never jumps."""
        self._forget(now)
        refused, wait = self._refusal(key, tokens, now)
        if not refused:
            self.taken.append(Taken(call_id, now, tokens))
            self.leases.add(call_id)
        return Look(
            refused=refused,
            wait=wait,
            requests_left=max(key.requests_per_minute - len(self.taken), 0),
            tokens_left=max(key.tokens_per_minute - self._tokens, 0),
            reset=self.taken[-1].at + MINUTE - now if self.taken else 0.0,
        )

    def give_back(self, call_id: UUID, *, used_tokens: int, refused: bool) -> None:
        self.leases.discard(call_id)
        for entry in self.taken:
            if entry.call_id == call_id:
                entry.tokens = used_tokens
                if refused:
                    self.taken.remove(entry)
                return

    def idle(self, *, now: float) -> bool:
        """Whether nothing would be lost if the window were forgotten."""
        self._forget(now)
        return not self.taken and not self.leases

    @property
    def _tokens(self) -> int:
        return sum(entry.tokens for entry in self.taken)

    def _forget(self, now: float) -> None:
        while self.taken and self.taken[0].at <= now - MINUTE:
            self.taken.popleft()

    def _refusal(self, key: KeyFacts, tokens: int, now: float) -> tuple[str, float]:
        refused, wait = "", 0.0
        if len(self.taken) >= key.requests_per_minute:
            leaver = self.taken[len(self.taken) - key.requests_per_minute]
            refused, wait = "requests", leaver.at + MINUTE - now
        missing = self._tokens + tokens - key.tokens_per_minute
        if missing > 0 and (back := self._come_back_in(missing, now)) > wait:
            refused, wait = "tokens", back  # The longer wait is the true one.
        if not refused and len(self.leases) >= key.concurrent_requests:
            refused, wait = "concurrency", CONCURRENCY_WAIT
        return refused, wait

    def _come_back_in(self, missing: int, now: float) -> float:
        for entry in self.taken:
            missing -= entry.tokens
            if missing <= 0:
                return entry.at + MINUTE - now
        return MINUTE
