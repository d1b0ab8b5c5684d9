"""How many tokens a call may use, and how many it has used.

Pure arithmetic. A **bound** is never less than the truth and sizes the hold; an **estimate** is fair and counts where
no backend told us better. A **Meter** watches the events of one call go by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeGuard

from billing.pricing import Usage
from gateway.requests import Parsed

BYTES_PER_TOKEN = 4  # Typical of English prose and of the models in the catalogue.
BYTES_PER_TOKEN_AT_MOST = 16  # Indentation and long words; for what must not be taken for too much.
# What a chat template adds to a message: role markers, separators.
TEMPLATE_TOKENS = 4
TEMPLATE_TOKENS_AT_MOST = 16


def input_bound(parsed: Parsed, *, context_tokens: int) -> int:
    """No tokenizer makes more tokens than there are bytes, and no model reads more than its context.

    What an image or a file becomes cannot be seen from here, so a prompt with one may fill the context.
    """
    request = parsed.request
    most = context_tokens * request.prompts
    if not request.text_only:
        return most
    return min(parsed.prompt_bytes + TEMPLATE_TOKENS_AT_MOST * (request.pieces + 1), most)


def input_estimate(parsed: Parsed, *, context_tokens: int) -> int:
    request = parsed.request
    tokens = -(-parsed.text_bytes // BYTES_PER_TOKEN) + request.token_ids + TEMPLATE_TOKENS * request.pieces
    return min(tokens, context_tokens * request.prompts)


def output_bound(parsed: Parsed) -> int:
    return parsed.request.output_limit * parsed.request.choices


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
    _deltas: int = 0
    _bytes: int = 0
    _reported_at: int = 0  # The bytes that had come when the backend last reported.

    @property
    def finished(self) -> bool:
        """Whether the backend said that every choice of a stream is complete."""
        return bool(self._ended) and self._ended == self._begun

    @property
    def overrun(self) -> bool:
        """Whether a stream is surely far longer than it was allowed to be."""
        return max(self._deltas, self._bytes // BYTES_PER_TOKEN_AT_MOST) > 2 * self.output_bound + 16

    def see_chunk(self, chunk: dict[str, Any]) -> None:
        """Count one chunk of a stream. A later usage replaces an earlier one: running counts are cumulative."""
        for choice in chunk["choices"]:
            size = _text_bytes(choice.get("delta", choice))
            self._bytes += size
            self._deltas += size > 0
            self._begun.add(choice["index"])
            if reason := _reason(choice):
                self.finish_reason = reason
                self._ended.add(choice["index"])
        self._see_usage(chunk.get("usage"))

    def see_answer(self, answer: dict[str, Any]) -> None:
        """Count a whole JSON answer."""
        for choice in answer.get("choices", ()):
            self._bytes += _text_bytes(choice.get("message", choice))
            self.finish_reason = _reason(choice) or self.finish_reason
        self._see_usage(answer.get("usage"))

    def usage(self) -> Usage:
        """What was used so far: the backend's count if nothing was produced after it, else ours."""
        if self.reported is not None and self._reported_at == self._bytes:
            return self.reported
        return self._estimated()

    def _estimated(self) -> Usage:
        """A fair count: no chunk holds less than a token."""
        produced = max(self._deltas, -(-self._bytes // BYTES_PER_TOKEN))
        return Usage(self.input_estimate, min(produced, self.output_bound))

    def _see_usage(self, usage: Any) -> None:
        reported = read_usage(
            usage,
            most_input=self.context_tokens * self.prompts,
            most_output=self.context_tokens * self.choices,
        )
        if reported is not None:
            self.reported, self._reported_at = reported, self._bytes


def read_usage(usage: Any, *, most_input: int, most_output: int) -> Usage | None:
    """A backend's usage object as disjoint facts; None where it is missing or cannot be true."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if completion is None and not most_output:
        completion = 0  # Embeddings have none, and often do not say so.
    if not _is_count(prompt, most_input) or not _is_count(completion, most_output):
        return None
    cached = (
        _detail(usage, "prompt_tokens_details", "cached_tokens"),
        usage.get("prompt_cache_hit_tokens"),
        usage.get("cached_tokens"),
    )
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=max((count for count in cached if _is_count(count, prompt)), default=0),
        reasoning_tokens=reasoning if _is_count(reasoning, completion) else 0,
    )


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


def _detail(usage: dict[str, Any], group: str, name: str) -> Any:
    details = usage.get(group)
    return details.get(name) if isinstance(details, dict) else None


def _is_count(value: Any, most: int) -> TypeGuard[int]:
    """A whole number of tokens; bool is an int to Python, but not to us."""
    return type(value) is int and 0 <= value <= most


def _reason(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason")
    # PostgreSQL would refuse a NUL, and with it the whole record.
    return reason.replace("\0", "")[:30] if isinstance(reason, str) else ""


def _text_bytes(part: Any) -> int:
    """The bytes that a delta or a message holds: text, reasoning, refusal and the arguments of tools."""
    if not isinstance(part, dict):
        return 0
    texts = [part.get(name) for name in ("content", "text", "reasoning_content", "reasoning", "refusal")]
    calls = part.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in (*functions, part.get("function_call")):
        if isinstance(function, dict):
            texts += [function.get("name"), function.get("arguments")]
    return sum(len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str))
