"""The grammar of a stream that no SDK stumbles over. `check` reads the raw bytes of a whole answer and knows no mercy.

    chunk*  (usage, if asked for)  | error    then    data: [DONE]

Every event is one line `data: {...}` and an empty one: no comments, no other fields.
"""

from __future__ import annotations

import json
from typing import Any

FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
CHUNKS = {"chatcmpl-": "chat.completion.chunk", "cmpl-": "text_completion"}
IDENTITY = ("id", "object", "created", "model")
DELTA = {"role", "content", "refusal", "reasoning_content", "tool_calls", "function_call", "audio", "annotations"}
ERROR = ["message", "type", "param", "code"]


def check(body: bytes, *, usage_asked: bool) -> None:
    """Fails where the answer breaks a rule. One that ends in an error may be cut anywhere, but not malformed."""
    *events, done, nothing = body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b""), body[-200:]
    assert all(event.startswith(b"data: {") and b"\n" not in event and b"\r" not in event for event in events), body
    failed = bool(events) and events[-1].startswith(b'data: {"error":')
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    if failed:
        check_error(chunks.pop())
    assert not any("error" in chunk for chunk in chunks)
    assert len({tuple(chunk[name] for name in IDENTITY) for chunk in chunks}) <= 1
    for chunk in chunks:
        check_identity(chunk)
    if usage_asked and not failed:
        check_usage(chunks.pop())
    assert all(("usage" in chunk) == usage_asked and chunk.get("usage") is None for chunk in chunks)
    check_choices(chunks, failed=failed)


def check_error(frame: dict[str, Any]) -> None:
    assert list(frame) == ["error"]
    error = frame["error"]
    assert list(error) == ERROR
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)


def check_identity(chunk: dict[str, Any]) -> None:
    assert set(chunk) <= {*IDENTITY, "choices", "usage"}, chunk
    prefix = chunk["id"].partition("-")[0] + "-"
    assert chunk["object"] == CHUNKS[prefix]
    assert type(chunk["created"]) is int
    assert isinstance(chunk["model"], str)


def check_usage(chunk: dict[str, Any]) -> None:
    assert chunk["choices"] == []
    usage = chunk["usage"]
    counts = [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    counts += [usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens_details"]["reasoning_tokens"]]
    assert all(type(count) is int and count >= 0 for count in counts), usage
    prompt, completion, total, cached, reasoning = counts
    assert total == prompt + completion
    assert cached <= prompt
    assert reasoning <= completion


def check_choices(chunks: list[dict[str, Any]], *, failed: bool) -> None:
    """Choices begin in their order, one to a chunk; each ends once, unless the whole answer failed."""
    seen: list[Choice] = []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert type(choice["index"]) is int
        if choice["index"] == len(seen):
            seen.append(Choice(chat=chunk["object"] == "chat.completion.chunk"))
        seen[choice["index"]].see(choice)
    assert failed or (seen and all(choice.finish for choice in seen))


class Choice:
    def __init__(self, *, chat: bool) -> None:
        self.chat = chat
        self.finish: str | None = None
        self._begun = False
        self._tools: list[dict[str, Any]] = []
        self._function_named = False

    def see(self, choice: dict[str, Any]) -> None:
        assert self.finish is None, "something after the finish"
        self.finish = choice["finish_reason"]
        assert self.finish is None or self.finish in FINISH_REASONS
        assert choice["logprobs"] is None or isinstance(choice["logprobs"], dict)
        if not self.chat:
            assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
            assert isinstance(choice["text"], str)
            return
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"}
        self._see_delta(choice["delta"])

    def _see_delta(self, delta: dict[str, Any]) -> None:
        assert set(delta) <= DELTA, delta
        assert self.finish is None or delta == {}
        assert ("role" in delta) == (not self._begun)
        if not self._begun:
            assert delta["role"] == "assistant"
            assert isinstance(delta["content"], str)
        self._begun = True
        assert all(isinstance(delta.get(name, ""), str) for name in ("content", "refusal", "reasoning_content"))
        for fragment in delta.get("tool_calls", []):
            self._see_fragment(fragment)
        if "function_call" in delta:
            assert isinstance(delta["function_call"]["arguments"], str)
            assert not self._function_named or "name" not in delta["function_call"]
            self._function_named |= "name" in delta["function_call"]

    def _see_fragment(self, fragment: dict[str, Any]) -> None:
        assert type(fragment["index"]) is int
        assert isinstance(fragment["function"]["arguments"], str)
        if fragment["index"] == len(self._tools):
            assert set(fragment) == {"index", "id", "type", "function"}
            assert fragment["type"] == "function"
            assert isinstance(fragment["id"], str)
            assert fragment["id"] not in {tool["id"] for tool in self._tools}
            self._tools.append(fragment)
            return
        assert set(fragment) == {"index", "function"}
        first = self._tools[fragment["index"]]["function"]
        assert "name" not in fragment["function"] or "name" not in first
        first.update(fragment["function"])
