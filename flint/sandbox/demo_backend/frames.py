"""Frames: the bytes of a stream's events and of a JSON answer, and what the switches do to them.

A token's frame is a head, the token as a JSON string, and a tail. Heads and tails are made once for a call and the
JSON of a token once for the process, because hundreds of streams are served at a time.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from flint.sandbox.demo_backend.answers import Choice, ToolCall
from flint.sandbox.demo_backend.switches import Switches

HTML = b"<!DOCTYPE html><html><head><title>Demo</title></head><body><h1>It works!</h1></body></html>\n"

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ODD_NUMBERS = {"inf": "1e999", "-inf": "-1e999", "nan": "NaN", "null": "null", "true": "true", "false": "false"}


@functools.lru_cache(maxsize=8192)
def quote(text: str) -> bytes:
    return msgspec.json.encode(text)


class Place(NamedTuple):
    """Where in a delta a token stands."""

    before: bytes
    after: bytes = b""
    is_reasoning: bool = False


CONTENT = Place(b'"content":')
REASONING = Place(b'"reasoning_content":', is_reasoning=True)


class UsageFigures(msgspec.Struct):
    """What usage would honestly say, in tokens; cached is part of prompt, reasoning is part of completion."""

    prompt: int
    cached: int
    completion: int
    reasoning: int


def usage_json(figures: UsageFigures, switches: Switches) -> bytes:
    """The `usage` object, or what the switches make of it; not always valid JSON."""
    if switches.usage_null:
        return b"null"
    cached = _figure("cached_tokens", switches.usage_cached, figures.cached)
    parts = [
        _figure("prompt_tokens", switches.usage_prompt, figures.prompt),
        _figure("completion_tokens", switches.usage_completion, figures.completion),
        _figure("total_tokens", switches.usage_total, figures.prompt + figures.completion),
    ]
    if switches.usage_style == "deepseek":
        parts.append(_figure("prompt_cache_hit_tokens", switches.usage_cached, figures.cached))
        parts.append(_figure("prompt_cache_miss_tokens", "", figures.prompt - figures.cached))
    elif switches.usage_style == "flat":
        parts.append(cached)
    else:
        parts.append(f'"prompt_tokens_details":{{{cached}}}')
    reasoning = _figure("reasoning_tokens", switches.usage_reasoning, figures.reasoning)
    parts.append(f'"completion_tokens_details":{{{reasoning}}}')
    return ("{" + ",".join(part for part in parts if part) + "}").encode()


def _figure(name: str, word: str, honest: int) -> str:
    if not word:
        return f'"{name}":{honest}'
    if word == "omit":
        return ""
    if word in _ODD_NUMBERS:
        return f'"{name}":{_ODD_NUMBERS[word]}'
    if _NUMBER.fullmatch(word):
        return f'"{name}":{word}'
    return f'"{name}":{quote(word).decode()}'


def error_body(style: str, *, status: int, message: str) -> tuple[str, bytes]:
    """(content type, body) of an error as one kind of inference server or another words it."""
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    if style == "text":
        return "text/plain", b"upstream worker 10.0.0.12:8000 is out of memory\n"
    if style == "html":
        return "text/html", f"<html><body><h1>{status} Error</h1><hr>nginx</body></html>\n".encode()
    if style == "empty":
        return "application/json", b""
    document: dict[str, Any] = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    if style == "vllm":
        document = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    if style == "detail":
        document = {"detail": message}
    return "application/json", msgspec.json.encode(document)


class Frames:
    """The events of one call's stream, in order: opening, tokens, finish, ending.

    `figures` counts the tokens whose frames were made, so it is what running usage reports.
    """

    chunk_object = b"chat.completion.chunk"
    whole_object = b"chat.completion"
    token_end = b'},"logprobs":null,"finish_reason":null}]'

    def __init__(
        self,
        *,
        answer_id: str,
        created: int,
        model: str,
        figures: UsageFigures,
        usage_asked: bool,
        usage_running: bool,
        switches: Switches,
    ) -> None:
        self.figures = figures
        self.usage_sent: bytes | None = None
        self._switches = switches
        self._newline = b"\r\n" if switches.crlf else b"\n"
        self._identity = b'"id":%b,"created":%d,"model":%b' % (quote(answer_id), created, quote(model))
        self._start = b'data: {%b,"object":"%b","choices":[' % (self._identity, self.chunk_object)
        self._stop = b"}" + self._newline * 2
        silent = switches.no_usage
        self._usage_everywhere = not silent and (usage_running or switches.usage_at == "every")
        self._usage_on_finish = self._usage_everywhere or (not silent and switches.usage_at == "finish")
        self._usage_at_end = not silent and (usage_asked or bool(switches.usage_at))
        self._usage_at_end &= switches.usage_at != "finish"
        self._no_usage_yet = b',"usage":null' if self._usage_at_end else b""

    def comments(self, count: int) -> bytes:
        return (b": keep-alive" + self._newline * 2) * count

    def opening(self, choices: int) -> bytes:
        """The role of each choice, and a long line if that is wanted."""
        roles = b"".join(self._chunk(index, b'"role":"assistant","content":""', b"null") for index in range(choices))
        if self._switches.long_line:
            padding = b'],"padding":"%b"' % (b"x" * self._switches.long_line)
            roles += self._start + padding + self._stop
        return roles

    def tokens(self, choices: Sequence[Choice]) -> Iterator[bytes]:
        """One frame a token, the choices in turn."""
        heads = [self._start + self.token_head(index) for index in range(len(choices))]
        tail = self.token_end + self._no_usage_yet + self._stop
        if self._switches.comments_between:
            tail += self.comments(1)
        garbage_at = self._switches.garbage_after + 1 if self._switches.garbage else 0
        figures = self.figures
        for index, place, token in _in_turn(choices):
            figures.completion += 1
            figures.reasoning += place.is_reasoning
            if self._usage_everywhere:
                tail = self.token_end + self._usage_field() + self._stop
            garbage = self.garbage() if figures.completion == garbage_at else b""
            before, after, _ = self.placed(place)
            yield b"".join((garbage, heads[index], before, quote(token), after, tail))

    def finish(self, choices: Sequence[Choice]) -> bytes:
        """The finish chunk of each choice."""
        if self._switches.no_finish:
            return b""
        return b"".join(
            self._chunk(index, b"", _finish_reason(choice, self._switches)) for index, choice in enumerate(choices)
        )

    def ending(self) -> bytes:
        """The usage chunk and [DONE], as far as they are wanted."""
        usage = self._start + b"]" + self._usage_field() + self._stop if self._usage_at_end else b""
        return usage if self._switches.no_done else usage + self.done()

    def done(self) -> bytes:
        return b"data: [DONE]" + self._newline * 2

    def error(self, message: str) -> bytes:
        """What an inference server sends when it fails in the middle."""
        _, body = error_body("openai", status=500, message=message)
        return b"data: " + body + self._newline * 2 + self.done()

    def garbage(self) -> bytes:
        """What no client should have to read, in the middle of a stream."""
        if self._switches.garbage == "json":
            return self._start[:-20] + self._newline * 2
        if self._switches.garbage == "half_utf8":
            return self._chunk(0, b'"content":"caf\xc3"', b"null")
        if self._switches.garbage != "sse":
            return b""
        return b"event: ping\n\nretry: 3000\n\ndata:\n\nid: 7\n: a comment after an id\n\n"

    def _chunk(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        is_finish = finish_reason != b"null" or not delta
        with_usage = self._usage_on_finish if is_finish else self._usage_everywhere
        usage = self._usage_field() if with_usage else self._no_usage_yet
        return self._start + self.choice(index, delta, finish_reason) + b"]" + usage + self._stop

    def token_head(self, index: int) -> bytes:
        """What stands before every token of a choice in its frame."""
        return b'{"index":%d,"delta":{%b' % (index, b'"role":"assistant",' if self._switches.roles else b"")

    def placed(self, place: Place) -> Place:
        return place

    def choice(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        return b'{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":%b}' % (index, delta, finish_reason)

    def whole_choice(self, index: int, choice: Choice) -> bytes:
        return _whole_choice(index, choice, self._switches)

    def finish_reason(self, choice: Choice) -> bytes:
        return b"null" if self._switches.no_finish else _finish_reason(choice, self._switches)

    def _usage_field(self) -> bytes:
        self.usage_sent = usage_json(self.figures, self._switches)
        return b',"usage":' + self.usage_sent

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """The JSON answer that carries everything at once."""
        for _, place, _ in _in_turn(choices):
            self.figures.completion += 1
            self.figures.reasoning += place.is_reasoning
        parts = b",".join(self.whole_choice(index, choice) for index, choice in enumerate(choices))
        usage = b"" if self._switches.no_usage else self._usage_field()
        padding = b',"padding":"%b"' % (b"x" * self._switches.long_line) if self._switches.long_line else b""
        head = b'{%b,"object":"%b","choices":[%b]' % (self._identity, self.whole_object, parts)
        return head + usage + padding + b"}"


def _in_turn(choices: Sequence[Choice]) -> Iterator[tuple[int, Place, str]]:
    """(index of the choice, place in its delta, token), the choices in turn until all are out."""
    running = {index: _one(index, choice) for index, choice in enumerate(choices)}
    while len(running) > 1:
        for index, one in list(running.items()):
            token = next(one, None)
            if token is None:
                del running[index]
                continue
            yield token
    for one in running.values():
        yield from one


def _one(index: int, choice: Choice) -> Iterator[tuple[int, Place, str]]:
    for token in choice.reasoning:
        yield index, REASONING, token
    for token in choice.content_tokens():
        yield index, CONTENT, token
    for number, call in enumerate(choice.tool_calls):
        # Only the first fragment of a call carries its id and its name.
        named = b'"id":%b,"type":"function","function":{"arguments":"","name":' % quote(call.id)
        yield index, _in_call(number, named), call.name
        arguments = _in_call(number, b'"function":{"arguments":')
        for token in call.arguments:
            yield index, arguments, token


def _in_call(number: int, before: bytes) -> Place:
    return Place(b'"tool_calls":[{"index":%d,%b' % (number, before), b"}}]")


def _finish_reason(choice: Choice, switches: Switches) -> bytes:
    if switches.finish_reason == "null":
        return b"null"
    return quote(switches.finish_reason or choice.finish_reason)


def _whole_choice(index: int, choice: Choice, switches: Switches) -> bytes:
    content = b"null" if choice.tool_calls else msgspec.json.encode("".join(choice.content))
    if switches.garbage == "half_utf8":
        content = b'"caf\xc3"'
    reasoning = b""
    if choice.reasoning:
        reasoning = b',"reasoning_content":' + msgspec.json.encode("".join(choice.reasoning))
    calls = b',"tool_calls":' + msgspec.json.encode([_whole_call(call) for call in choice.tool_calls])
    parts = reasoning + (calls if choice.tool_calls else b"")
    message = b'{"role":"assistant","content":%b,"refusal":null%b}' % (content, parts)
    reason = b"null" if switches.no_finish else _finish_reason(choice, switches)
    return b'{"index":%d,"message":%b,"logprobs":null,"finish_reason":%b}' % (index, message, reason)


def _whole_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": "".join(call.arguments)},
    }
