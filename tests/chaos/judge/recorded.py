"""The rules for calls with a usage record: charged for what was used, by the price of its moment, and for a backend.

**Counted by the backend**: exactly what it reported, where the answer came to its end. A call that was stopped may have
a running report that is older than the journal's last one.

**Estimated**: the gateway counts a token for each piece of text, or one for each BYTES_PER_TOKEN of its bytes where
that is more. The load writes ASCII, and the demo backend's tokens of that have one to MOST_BYTES bytes (a prompt's: to
MOST_PROMPT_BYTES, eight spaces), so both estimates lie within a factor of the truth.

**Checkpoint**: the same count, some time ago. A backend keeps an even pace, so of N tokens written in T seconds at most
N/T x `blind_seconds` came after the last checkpoint, and what it writes at once. Whoever keeps the database away from a
gateway before killing it must allow for more blind seconds.

**Unresolved**: nothing was known. That is so for JSON, and for a stream that no checkpoint can have seen.

Exceptions, and why they are safe:
- A record without its attempt in the journal was charged for nothing, unless the customer hung up while the request was
  on its way: the prompt is owed, as published, though the backend may have stopped reading before it accepted. Such a
  record has no output, and a client that stayed to the end excludes it.
- An unresolved record charges nothing, so it needs no attempt.
- What has a late record beside it may lack what was used: that row keeps it for a person, and the verdict counts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.chaos.judge.books import Record
from tests.chaos.judge.cases import Case, Priced
from tests.chaos.judge.evidence import Attempt
from tests.chaos.judge.prices import PriceTable, Tokens
from tests.chaos.judge.verdict import Kind

BYTES_PER_TOKEN = 4  # The gateway's.
MOST_BYTES = 7  # Of a token of an answer: six letters and the space before them.
MOST_PROMPT_BYTES = 8
WRITTEN_AT_ONCE = 16  # Tokens: the demo backend's largest batch.

_SOURCES = {"unresolved": ("none",), "swept": ("checkpoint",)}


@dataclass(frozen=True, slots=True)
class RecordRules:
    prices: PriceTable
    context_tokens: Mapping[int, int]
    blind_seconds: float

    def faults(self, case: Case) -> Iterator[tuple[Kind, str]]:
        if len(case.records) > 1:
            yield "double", f"it has {len(case.records)} records"
        priced = case.records[0]
        record = priced.record
        yield from _identity(case, record)
        yield from _charge(priced)
        yield from _attempts(case, record)
        attempt = case.attempt(record.attempt)
        if attempt is not None:
            yield from self._hold(priced, attempt)
        match record.source:
            case "none":
                yield from self._unresolved(case, record)
            case "backend" if attempt is not None:
                yield from _reported(record, attempt)
            case "estimated" | "checkpoint":
                yield from self._input_estimate(record, attempt)
                if attempt is not None:
                    yield from _output_estimate(record, attempt)
                    yield from self._missed(case, record, attempt)

    def _hold(self, priced: Priced, attempt: Attempt) -> Iterator[tuple[Kind, str]]:
        """A hold that is too small would clamp away what is owed."""
        if priced.version_id is None:
            return
        prompt = min(attempt.prompt_tokens, self.context_tokens[priced.record.model_id])
        most = self.prices.cost(priced.version_id, Tokens(prompt, 0, attempt.most_output))
        if priced.record.held < most:
            yield "wrong", f"{priced.record.held} were held, but it could cost {most}"

    def _input_estimate(self, record: Record, attempt: Attempt | None) -> Iterator[tuple[Kind, str]]:
        if record.cached_input_tokens:
            yield "wrong", f"{record.cached_input_tokens} cached tokens, which nobody can estimate"
        least, most = 1, self.context_tokens[record.model_id]
        if attempt is not None:
            least = max(1, min(attempt.prompt_tokens, most) // BYTES_PER_TOKEN)
            most = min(most, _ceil(attempt.prompt_tokens * MOST_PROMPT_BYTES, BYTES_PER_TOKEN) + 1)
        if not least <= record.input_tokens <= most:
            yield "wrong", f"{record.input_tokens} input tokens are estimated, {least} to {most} would be fair"

    def _missed(self, case: Case, record: Record, attempt: Attempt) -> Iterator[tuple[Kind, str]]:
        """What surely was used and is not in the count."""
        seen = _all_seen(record, attempt) if record.source == "estimated" else self._seen_in_time(case, attempt)
        if case.late is None and record.output_tokens < min(seen, attempt.most_output):
            yield "lost", f"{record.output_tokens} output tokens are charged, at least {seen:.0f} were seen"

    def _seen_in_time(self, case: Case, attempt: Attempt) -> float:
        """The output tokens that must be in the last checkpoint."""
        seconds = case.streamed_seconds(attempt)
        if seconds <= self.blind_seconds:
            return 0
        # A gateway that was frozen before it died has passed on less than was written.
        passed_on = attempt.tokens_written if case.client is None else case.client.tokens
        return passed_on - case.written(attempt) / seconds * self.blind_seconds - WRITTEN_AT_ONCE

    def _unresolved(self, case: Case, record: Record) -> Iterator[tuple[Kind, str]]:
        if any(record.tokens):
            yield "wrong", f"it is unresolved, but has {record.tokens}"
        attempt = case.last_attempt
        if case.late is not None or attempt is None or not case.written(attempt):
            return
        seconds = case.streamed_seconds(attempt)
        if seconds > self.blind_seconds:
            yield "lost", f"it is unresolved, but a stream of {seconds:.1f} s must have a checkpoint"


def _identity(case: Case, record: Record) -> Iterator[tuple[Kind, str]]:
    """Records, holds and late records of one call agree on what they are."""
    if case.hold is not None:
        if record.settled_at is not None:
            yield "double", "it is charged, and its hold is still open"
        if case.hold.amount != record.held:
            yield "wrong", f"its record says that {record.held} were held, its hold {case.hold.amount}"
    if record.source not in _SOURCES.get(record.outcome, ("backend", "estimated")):
        yield "wrong", f"source {record.source} cannot be of outcome {record.outcome}"
    if case.late is not None and (record.outcome not in _SOURCES or record.account_id != case.late.account_id):
        yield "wrong", "its late record does not belong to a call that was swept"


def _charge(priced: Priced) -> Iterator[tuple[Kind, str]]:
    record = priced.record
    if priced.version_id is None:
        yield "wrong", "no price was in force when it was admitted"
    elif record.price_version_id != priced.version_id:
        yield "wrong", f"charged by price {record.price_version_id}, but {priced.version_id} was in force"
    if record.charge != priced.charge:
        yield "wrong", f"charged {record.charge}, but {record.tokens} cost {priced.cost}, of {record.held} held"
    if record.clamped != (priced.cost > record.held):
        yield "wrong", f"clamped is {record.clamped}, but it cost {priced.cost}, of {record.held} held"


def _attempts(case: Case, record: Record) -> Iterator[tuple[Kind, str]]:
    numbers = [attempt.number for attempt in case.attempts]
    if len(set(numbers)) < len(numbers):
        yield "wrong", "an attempt of it was sent to the backend twice"
    if record.source == "none":
        return
    if any(number > record.attempt for number in numbers):
        yield "wrong", f"attempt {record.attempt} is charged, but a later one was accepted"
    if record.attempt not in numbers and not _left_before_the_backend_read(case, record):
        yield "wrong", f"the journal knows no attempt {record.attempt} of it: it is charged without a backend"


def _left_before_the_backend_read(case: Case, record: Record) -> bool:
    prompt_only = record.source == "estimated" and record.output_tokens == 0
    left = case.client is None or case.client.left
    return record.outcome == "client_closed" and prompt_only and left


def _reported(record: Record, attempt: Attempt) -> Iterator[tuple[Kind, str]]:
    reported = attempt.reported
    if record.outcome == "completed" and attempt.end == "done":
        fits = record.tokens == reported
    elif record.outcome == "completed" and attempt.end is not None:
        # It was left between the sending of its last report and the noting of it.
        fits = record.tokens in (reported, attempt.counted)
    else:
        most = attempt.most_output if attempt.end is None else attempt.completion_tokens
        fits = record.tokens[:2] == reported[:2] and record.output_tokens <= most
    if not fits:
        yield "wrong", f"the record has {record.tokens}, the backend reported {reported}"


def _all_seen(record: Record, attempt: Attempt) -> float:
    """The output tokens of an answer that came to its end; in JSON they are counted by their bytes alone."""
    if record.outcome != "completed":
        return 0
    return attempt.completion_tokens if attempt.stream else attempt.completion_tokens / BYTES_PER_TOKEN


def _output_estimate(record: Record, attempt: Attempt) -> Iterator[tuple[Kind, str]]:
    most = attempt.most_output
    if attempt.ended_at is not None:
        # What is generated may be on the wire, though it was not yet counted as written when the gateway left.
        most = min(most, _ceil(attempt.completion_tokens * MOST_BYTES, BYTES_PER_TOKEN))
    if record.output_tokens > most:
        yield "wrong", f"{record.output_tokens} output tokens are charged, at most {most} can have been seen"


def _ceil(amount: int, part: int) -> int:
    return -(-amount // part)
