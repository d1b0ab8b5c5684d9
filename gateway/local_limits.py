"""The limits of one account as one process knows them, for the time in which Redis is away.

The same rules as `limits.lua`: an exact sliding window of a minute, and one lease for each running call. Nothing is
shared, so with N processes a customer may get up to N times the limits; and it starts empty.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from apikeys.keys import KeyFacts
from gateway import allowances
from gateway.allowances import Allowance, Amounts, Look, Refusal, Standing

MINUTE = 60.0
CONCURRENCY_WAIT = 1.0  # Nobody knows when a running call ends.


@dataclass(slots=True)
class Taken:
    """One call of the last minute. `tokens` are those it may use, and once it is over those it used."""

    call_id: UUID
    key_id: int
    at: float
    tokens: int


@dataclass(slots=True)
class LocalWindow:
    """Of all keys of the account together; what a key has used is found by looking through it."""

    taken: deque[Taken] = field(default_factory=deque)
    leases: dict[UUID, int] = field(default_factory=dict)  # Running calls, and their keys.

    def take(self, key: KeyFacts, *, call_id: UUID, tokens: int, now: float) -> Look:
        """Take one request, `tokens` and a lease, all or nothing. `now` is in seconds of a clock that never jumps."""
        before = self.look(key, now=now)
        refusals = [
            refusal
            for standing in before.standings
            for refusal in self._refusals(standing, self._of(standing.allowance, key), tokens, now)
        ]
        if refusals:
            return Look(before.standings, max(refusals, key=lambda refusal: refusal.wait))  # The longest is the true.
        for standing in before.standings:
            if standing.left("concurrency") == 0:
                return Look(before.standings, Refusal("concurrency", standing.allowance, CONCURRENCY_WAIT))
        self.taken.append(Taken(call_id, key.key_id, now, tokens))
        self.leases[call_id] = key.key_id
        return self.look(key, now=now)

    def look(self, key: KeyFacts, *, now: float) -> Look:
        self._forget(now)
        return Look([self._standing(allowance, key, now) for allowance in allowances.of(key)])

    def give_back(self, call_id: UUID, *, used_tokens: int, refused: bool) -> None:
        self.leases.pop(call_id, None)
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

    def _forget(self, now: float) -> None:
        while self.taken and self.taken[0].at <= now - MINUTE:
            self.taken.popleft()

    def _of(self, allowance: Allowance, key: KeyFacts) -> list[Taken]:
        """The calls that count against it, the oldest first."""
        return [entry for entry in self.taken if allowance.holder == "account" or entry.key_id == key.key_id]

    def _standing(self, allowance: Allowance, key: KeyFacts, now: float) -> Standing:
        calls = self._of(allowance, key)
        running = [of for of in self.leases.values() if allowance.holder == "account" or of == key.key_id]
        used = Amounts(len(calls), sum(call.tokens for call in calls), len(running))
        return Standing(allowance, used, calls[-1].at + MINUTE - now if calls else 0.0)

    def _refusals(self, standing: Standing, calls: list[Taken], tokens: int, now: float) -> list[Refusal]:
        found, limits = [], standing.allowance.limits
        if len(calls) >= limits.requests:
            leaver = calls[len(calls) - limits.requests]
            found.append(Refusal("requests", standing.allowance, leaver.at + MINUTE - now))
        missing = standing.used.tokens + tokens - limits.tokens
        if missing > 0:
            found.append(Refusal("tokens", standing.allowance, _come_back_in(calls, missing, now)))
        return found


def _come_back_in(calls: list[Taken], missing: int, now: float) -> float:
    for call in calls:
        missing -= call.tokens
        if missing <= 0:
            return call.at + MINUTE - now
    return MINUTE
