"""The client ledger: what customers saw of their calls, one line for each, written by no part of the product.

The judge compares it with the books; the table takes its counts and waits from it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# done: a whole answer. error: an error frame in a stream. cut: the connection broke. hung_up: we closed it. refused: an
# answer other than 200. timeout: we had no more patience.
End = Literal["done", "error", "cut", "hung_up", "refused", "timeout"]


@dataclass(eq=False, slots=True)
class Call:
    """One call as its customer saw it. Times are seconds since 1970."""

    fault: str
    gateway: str
    account_id: int
    stream: bool
    sent_at: float = field(default_factory=time.time)
    answered_at: float | None = None  # The first byte of any answer.
    first_at: float | None = None  # The first token.
    ended_at: float = 0.0
    call_id: str | None = None
    status: int | None = None
    tokens: int = 0
    end: End = "cut"
    code: str | None = None
    retry_after: str | None = None
    usage: dict[str, Any] | None = None

    @property
    def waited(self) -> float | None:
        """Seconds until the first byte of an answer or a refusal; None where there was none."""
        return None if self.answered_at is None else self.answered_at - self.sent_at

    def line(self) -> str:
        facts = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(facts) + "\n"


_FIELDS = (
    "fault",
    "account_id",
    "call_id",
    "stream",
    "sent_at",
    "first_at",
    "ended_at",
    "status",
    "tokens",
    "end",
    "code",
    "retry_after",
    "usage",
)


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._calls: dict[str, list[Call]] = defaultdict(list)

    def write(self, call: Call) -> None:
        """The call is over."""
        call.ended_at = time.time()
        with self._lock:
            self._file.write(call.line())
            self._calls[call.fault].append(call)

    def calls_of(self, fault: str) -> list[Call]:
        with self._lock:
            return list(self._calls[fault])

    def close(self) -> None:
        self._file.close()
