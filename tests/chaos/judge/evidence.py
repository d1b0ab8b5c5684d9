"""What the two ends of the product say of its calls, written by processes that no fault is aimed at together with it.

An **Attempt** is one call that the demo backend accepted, from its journal. A **Client** is one call as the load saw
it, from its ledger. Times are seconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.chaos.judge.prices import Tokens

PROBE = 0  # In place of the number of an attempt.


@dataclass(frozen=True, slots=True)
class Attempt:
    """`completion_tokens` were generated; the socket took `tokens_written` of them. Where the backend died first, `end`
    is None and nothing is known of what it wrote.
    """

    call_id: UUID
    number: int
    stream: bool
    most_output: int  # Over all choices.
    prompt_tokens: int
    cached_tokens: int
    accepted_at: float
    ended_at: float | None
    completion_tokens: int
    tokens_written: int
    usage: Any
    end: str | None

    @property
    def counted(self) -> Tokens:
        return Tokens(self.prompt_tokens, self.cached_tokens, self.completion_tokens)

    @property
    def reported(self) -> Tokens:
        """The last usage that it sent; what it counted, where it sent none or something else."""
        return usage_tokens(self.usage) or self.counted


@dataclass(frozen=True, slots=True)
class Client:
    call_id: UUID | None
    account_id: int
    first_at: float | None
    ended_at: float
    status: int | None
    tokens: int
    end: str
    code: str | None
    retry_after: str | None
    usage: Any

    @property
    def got_content(self) -> bool:
        """Or its beginning: a stream's head goes out with the first event of the backend, JSON after its record."""
        return self.status == 200

    @property
    def left(self) -> bool:
        """Whether the connection ended before the answer did."""
        return self.end in ("hung_up", "cut", "timeout")


def read_journal(path: Path) -> list[Attempt]:
    """The calls that were accepted, of all the backend's lives."""
    accepted: dict[tuple[str, int], dict[str, Any]] = {}
    for line in _journal_lines(path):
        call = (line["boot"], line["serial"])
        if line["event"] == "accepted":
            accepted[call] = line
        elif line["event"] == "ended" and call in accepted:
            accepted[call] |= line
    read = (_attempt(entry) for entry in accepted.values())
    return [attempt for attempt in read if attempt is not None]


def read_clients(path: Path, accounts: Collection[int] | None) -> list[Client]:
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [_client(line) for line in lines if accounts is None or line["account_id"] in accounts]


def usage_tokens(usage: Any) -> Tokens | None:
    """A usage object in any of the ways in which backends word it; None where it is none.

    A count of cached tokens that cannot be true is none.
    """
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = usage.get("prompt_tokens_details")
    nested = details.get("cached_tokens") if isinstance(details, dict) else None
    words = (nested, usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens"))
    cached = max((word for word in words if isinstance(word, int) and 0 <= word <= prompt), default=0)
    return Tokens(prompt, cached, completion)


def _journal_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue  # The process was killed in the middle of it, so it never went on to what the line announces.


def _attempt(entry: dict[str, Any]) -> Attempt | None:
    """None where the call did not come through a gateway, and for a worker's probe: that is no customer's."""
    try:
        call_id, number = UUID(entry["call_id"]), int(entry["attempt"])
    except (TypeError, ValueError):
        return None
    if number == PROBE:
        return None
    ended_at = entry.get("ended_at")
    return Attempt(
        call_id=call_id,
        number=number,
        stream=entry["stream"],
        most_output=(entry["max_tokens"] or 0) * entry["choices"],
        prompt_tokens=entry["prompt_tokens"],
        cached_tokens=entry["cached_tokens"],
        accepted_at=datetime.fromisoformat(entry["accepted_at"]).timestamp(),
        ended_at=None if ended_at is None else datetime.fromisoformat(ended_at).timestamp(),
        completion_tokens=entry.get("completion_tokens", 0),
        tokens_written=entry.get("tokens_written", 0),
        usage=entry.get("usage"),
        end=entry.get("end"),
    )


def _client(line: dict[str, Any]) -> Client:
    return Client(
        call_id=None if line["call_id"] is None else UUID(line["call_id"]),
        account_id=line["account_id"],
        first_at=line["first_at"],
        ended_at=line["ended_at"],
        status=line["status"],
        tokens=line["tokens"],
        end=line["end"],
        code=line["code"],
        retry_after=line["retry_after"],
        usage=line["usage"],
    )
