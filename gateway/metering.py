"""How many tokens a call may use, and how many it has used.

Pure arithmetic. A **bound** is never less than the truth and sizes the hold; an **estimate** is fair and counts where
no backend told us better. A **Meter** watches the events of one call go by.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from billing.pricing import Price, Usage
from gateway.faults import Fault
from gateway.requests import Parsed

BYTES_PER_TOKEN = 4  # Of ASCII: English prose and code have 4 to 5 with every vocabulary of the catalogue.
# Of all else, by family. Vocabularies made for Chinese put two characters of three bytes each into many tokens. Counted
# with the tokenizers of DeepSeek V4 and Qwen: Chinese 5.6 to 6.2, Japanese 4.1 to 4.8, Arabic 5.0 to 5.3, Russian 6.4
# to 7.5; with Llama 3's: 4.0, 4.2, 5.0, 6.7.
OTHER_BYTES_PER_TOKEN = {"DeepSeek": 5, "Qwen3.5": 5, "Kimi K2": 5, "GLM-5": 5, "MiniMax M2": 5, "Llama 3.3": 4}
OTHER_BYTES_OF_A_STRANGER = 4  # For families that are not among these.
BYTES_PER_TOKEN_AT_MOST = 16  # Indentation and long words; for what must not be taken for too much.
EMPTY_CHUNKS = 1000  # So many may say nothing: other gateways fill silences with them.
LONGEST_TOKEN_BYTES = 128  # A row of spaces; in each of those three vocabularies.
# What a chat template adds to a message: role markers, separators.
TEMPLATE_TOKENS = 4
TEMPLATE_TOKENS_AT_MOST = 16

# How backends call the part of a count, beside it or in its details.
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
_REASONING = ("reasoning_tokens",)
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_TEXTS = ("content", "text", "reasoning_content", "refusal")


def input_bound(parsed: Parsed, *, context_tokens: int) -> int:
    """No tokenizer makes more tokens than there are bytes, and no model reads more than its context.

    What an image or a file becomes cannot be seen from here, so a prompt with one may fill the context.
    """
    request = parsed.request
    most = context_tokens * request.prompts
    if not parsed.text_only:
        return most
    return min(parsed.prompt_bytes + TEMPLATE_TOKENS_AT_MOST * (parsed.pieces + 1), most)


def input_estimate(parsed: Parsed, *, family: str, context_tokens: int) -> int:
    """Within a factor of 1.75 of the truth for prose and code in any language. Tables of numbers and emoji can be three
    times as many tokens as this."""
    others = OTHER_BYTES_PER_TOKEN.get(family, OTHER_BYTES_OF_A_STRANGER)
    tokens = -(-parsed.ascii_bytes // BYTES_PER_TOKEN) - (-parsed.other_bytes // others)
    tokens += parsed.token_ids + TEMPLATE_TOKENS * parsed.pieces
    return min(tokens, context_tokens * parsed.request.prompts)


def input_least(parsed: Parsed) -> int:
    """Never more than the truth."""
    return parsed.token_ids + (parsed.ascii_bytes + parsed.other_bytes) // LONGEST_TOKEN_BYTES


def output_bound(parsed: Parsed) -> int:
    """Of all choices. Prompt and answer together may be more than the context: a backend ends the answer earlier, or
    refuses the call; the hold is large enough for whichever it does."""
    return parsed.request.output_limit * parsed.request.choices


def affordable_output(parsed: Parsed, price: Price, *, context_tokens: int, available: int) -> int:
    """The most `max_tokens` below those that were asked for with which `available` covers the call; 0 if none do."""
    bound = input_bound(parsed, context_tokens=context_tokens)
    choices = parsed.request.choices

    def ceiling(tokens: int) -> int:
        return price.ceiling(input_tokens=bound, output_tokens=tokens * choices)

    return bisect.bisect_right(range(1, parsed.request.output_limit), available, key=ceiling)


@dataclass(slots=True)
class Meter:
    """What one call has used: the backend's own count where there is a believable one, else ours.

    A backend reads each of the `prompts` and writes each of the `choices` within the context of its model.
    """

    input_estimate: int
    output_bound: int
    context_tokens: int
    prompts: int = 1
    choices: int = 1
    finish_reason: str = ""
    reported: Usage | None = None
    _begun: set[int] = field(default_factory=set)  # Choices, by index.
    _ended: set[int] = field(default_factory=set)
    _chunks: int = 0
    _deltas: int = 0
    _bytes: int = 0
    _reported_at: int = 0  # The bytes that had come when the backend last reported.
    _doubt: Fault | None = None  # Why the last report was not believed.

    @property
    def finished(self) -> bool:
        """Whether the backend said of every choice of a stream that it began that it has ended."""
        return bool(self._ended) and self._ended == self._begun

    @property
    def complete(self) -> bool:
        """Whether only the usage can come: some backends begin a choice only when the one before it has ended."""
        return len(self._ended) >= self.choices

    @property
    def overrun(self) -> bool:
        """Whether an answer is surely far longer than it was allowed to be."""
        produced = max(self._deltas, self._bytes // BYTES_PER_TOKEN_AT_MOST)
        return produced > 2 * self.output_bound + 16 or self._chunks > 2 * self.output_bound + EMPTY_CHUNKS

    def see_chunk(self, chunk: dict[str, Any]) -> None:
        """Count one chunk of a stream, mended. A later usage replaces an earlier one: running counts are cumulative."""
        self._chunks += 1
        for choice in chunk["choices"]:
            size = _text_bytes(choice.get("delta", choice))
            self._bytes += size
            self._deltas += size > 0
            self._begun.add(choice["index"])
            if reason := choice["finish_reason"]:
                self.finish_reason = reason
                self._ended.add(choice["index"])
        self._see_usage(chunk.get("usage"))

    def see_answer(self, answer: dict[str, Any]) -> None:
        """Count a whole JSON answer."""
        for choice in answer.get("choices", ()):
            self._bytes += _text_bytes(choice.get("message", choice))
            self.finish_reason = choice["finish_reason"]
        self._see_usage(answer.get("usage"))

    def usage(self) -> Usage:
        """What was used so far: the backend's count if nothing was produced after it, else ours."""
        if self.reported is not None and self._reported_at == self._bytes:
            return self.reported
        return self._estimated()

    @property
    def fault(self) -> Fault | None:
        """What is wrong with how the backend reported."""
        usage = self.usage()
        if self._doubt or usage is not self.reported:
            return self._doubt or Fault.USAGE_MISSING
        is_zero = not usage.input_tokens or (self._bytes > 0 and not usage.output_tokens)
        return Fault.USAGE_ZERO if is_zero else None

    def _estimated(self) -> Usage:
        """A fair count: no chunk holds less than a token."""
        produced = max(self._deltas, -(-self._bytes // BYTES_PER_TOKEN))
        return Usage(self.input_estimate, min(produced, self.output_bound))

    @property
    def _least_of_several(self) -> int:
        """What several choices surely have together: some backends (llama.cpp) count only one of them."""
        return max(self._deltas, self._bytes // BYTES_PER_TOKEN_AT_MOST) if self.choices > 1 else 0

    def _see_usage(self, usage: Any) -> None:
        if usage is None:
            return
        most_input, most_output = self.context_tokens * self.prompts, self.context_tokens * self.choices
        reported = read_usage(usage, most_input=most_input, most_output=most_output)
        if reported is None:
            self._doubt = _unbelievable(usage, most_input=most_input, most_output=most_output)
        elif reported.output_tokens < self._least_of_several:
            self._doubt = Fault.USAGE_SHORT
        elif self.reported is not None and _fell(self.reported, reported):
            self._doubt = Fault.USAGE_FELL
        else:
            self.reported, self._reported_at, self._doubt = reported, self._bytes, None


def read_usage(usage: Any, *, most_input: int, most_output: int) -> Usage | None:
    """A backend's usage object as disjoint facts; None where it is missing or cannot be true."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if completion is None and not most_output:
        completion = 0  # Embeddings have none, and often do not say so.
    if not _is_count(prompt, most_input) or not _is_count(completion, most_output):
        return None
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=_part(usage, _CACHED, prompt, most_input),
        reasoning_tokens=_part(usage, _REASONING, completion, most_output),
    )


def _unbelievable(usage: Any, *, most_input: int, most_output: int) -> Fault:
    """Why such a usage was not read."""
    if not isinstance(usage, dict):
        return Fault.USAGE_MALFORMED
    counts: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens", None if most_output else 0)]
    if not all(type(count) in (int, float) for count in counts):
        return Fault.USAGE_MALFORMED
    if min(counts) < 0:
        return Fault.USAGE_NEGATIVE
    is_absurd = counts[0] > most_input or counts[1] > most_output
    return Fault.USAGE_ABSURD if is_absurd else Fault.USAGE_MALFORMED


def _fell(earlier: Usage, later: Usage) -> bool:
    return later.input_tokens < earlier.input_tokens or later.output_tokens < earlier.output_tokens


def usage_object(meter: Meter) -> dict[str, Any]:
    """What the customer sees: the figures that are charged."""
    usage = meter.usage()
    read = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens + usage.output_tokens}
    if not meter.choices:
        return read
    return {
        **read,
        "completion_tokens": usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _part(usage: dict[str, Any], names: tuple[str, ...], whole: int, most: int) -> int:
    """Part of a count, by the largest of its names; it cannot be more than the whole."""
    counts = [usage.get(name) for name in names]
    counts += [group.get(name) for group in map(usage.get, _DETAILS) if isinstance(group, dict) for name in names]
    return min(max((count for count in counts if _is_count(count, most)), default=0), whole)


def _is_count(value: Any, most: int) -> TypeGuard[int]:
    """A whole number of tokens; bool is an int to Python, but not to us."""
    return type(value) is int and 0 <= value <= most


def _text_bytes(part: dict[str, Any]) -> int:
    """The bytes that a delta or a message holds: text, reasoning, refusal and the arguments of tools."""
    size = sum(len(part[name].encode()) for name in _TEXTS if part.get(name))
    functions = [call["function"] for call in part.get("tool_calls", ())]
    if "function_call" in part:
        functions.append(part["function_call"])
    for function in functions:
        size += len(function.get("name", "").encode()) + len(function["arguments"].encode())
    return size
