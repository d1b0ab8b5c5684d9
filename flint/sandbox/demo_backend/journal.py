"""The journal: what the backend accepted and what it served, written so that a stranger can check the books.

An append-only file of JSON lines. `accepted` is in the file before the first byte of the answer goes out; `ended`
follows when the call is over; `refused` stands alone for a call that never was accepted. A call is named by `boot`
(one life of the process) and `serial` (1, 2, 3 ... in that life), so the file may serve many lives. A call without
an `ended` line was running when the process died. No line carries a word of a prompt or an answer.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

End = Literal["done", "client_gone", "cut", "error", "hung"]

ENTRIES_KEPT = 20_000
TAIL_BYTES = 1024 * 1024


class Entry(msgspec.Struct, omit_defaults=False):
    """One call, its lines merged.

    `call_id` and `attempt` are the headers X-Flint-Call-Id and X-Flint-Attempt as they came. `completion_tokens` were
    generated, reasoning included, over all choices; of these `tokens_written` were handed to the socket. `usage` is
    the last usage that was sent, as it was sent (a text where it is not JSON).
    """

    boot: str
    serial: int
    call_id: str | None = None
    attempt: str | None = None
    model: str | None = None
    stream: bool | None = None
    choices: int | None = None
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    accepted_at: str | None = None
    ended_at: str | None = None
    completion_tokens: int = 0
    tokens_written: int = 0
    usage: Any = None
    status: int | None = None
    end: End | None = None


# What each kind of line carries, in this order. All of them name the call.
_CALL = ("boot", "serial", "call_id", "attempt")
_ASKED = ("model", "stream", "choices", "max_tokens", "prompt_tokens", "cached_tokens")
_SERVED = ("completion_tokens", "tokens_written", "usage")
_ACCEPTED_FIELDS = (*_CALL, "accepted_at", *_ASKED)
_ENDED_FIELDS = (*_CALL, "ended_at", *_SERVED, "status", "end")
_REFUSED_FIELDS = (*_CALL, "ended_at", "model", "status", "end")


class Journal:
    def __init__(self, path: Path) -> None:
        self.boot = secrets.token_hex(4)
        self.accepted = self.refused = self.running = self.tokens_written = 0
        self.ends: dict[str, int] = dict.fromkeys(("done", "client_gone", "cut", "error", "hung"), 0)
        self._serial = 0
        self._entries: OrderedDict[tuple[str, int], Entry] = OrderedDict()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._remember_earlier_lives()

    def close(self) -> None:
        os.close(self._file)

    def open_entry(self, *, call_id: str | None, attempt: str | None) -> Entry:
        self._serial += 1
        return Entry(boot=self.boot, serial=self._serial, call_id=call_id, attempt=attempt)

    def accept(self, entry: Entry) -> None:
        """The call will be served. Raises OSError when that cannot be written, and then it must not be."""
        entry.accepted_at = _now()
        self._append("accepted", entry, _ACCEPTED_FIELDS)
        self.accepted += 1
        self.running += 1

    def end(self, entry: Entry, end: End) -> None:
        entry.ended_at, entry.end = _now(), end
        self.running -= 1
        self.ends[end] += 1
        self.tokens_written += entry.tokens_written
        self._append("ended", entry, _ENDED_FIELDS)

    def refuse(self, entry: Entry, status: int) -> None:
        entry.ended_at, entry.status, entry.end = _now(), status, "error"
        self.refused += 1
        self._append("refused", entry, _REFUSED_FIELDS)

    def of_call(self, call_id: str) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.call_id == call_id]

    def last(self, count: int) -> list[Entry]:
        return list(self._entries.values())[-count:]

    def _append(self, event: str, entry: Entry, fields: Iterable[str]) -> None:
        line = msgspec.json.encode({"event": event} | {field: getattr(entry, field) for field in fields}) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("The journal took only a part of a line; is the disk full?")
        self._entries[(entry.boot, entry.serial)] = entry
        if len(self._entries) > ENTRIES_KEPT:
            self._entries.popitem(last=False)

    def _remember_earlier_lives(self) -> None:
        """Reads the end of the file, and closes a line that a killed process left half written."""
        size = os.fstat(self._file).st_size
        start = max(0, size - TAIL_BYTES)
        tail = os.pread(self._file, TAIL_BYTES, start)
        if tail and not tail.endswith(b"\n"):
            os.write(self._file, b"\n")
        for line in tail.split(b"\n")[1 if start else 0 :]:
            try:
                facts = msgspec.json.decode(line, type=dict[str, Any])
                key = (facts["boot"], facts["serial"])
                known = self._entries.get(key)
                merged = facts if known is None else msgspec.structs.asdict(known) | facts
                self._entries[key] = msgspec.convert(merged, Entry)
            except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
                continue  # A line that was never finished says nothing.


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
