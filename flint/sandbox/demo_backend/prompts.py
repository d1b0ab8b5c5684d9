"""Prompts: the chat request as it came, its number of tokens, and how much of it was seen before.

Messages stay in the bytes they came in, because a prefix is the same only if its bytes are. A prompt counts the tools
and every message: its text, its tool calls, and `tokens.MESSAGE_TOKENS` around it. So a prompt never has more
tokens than its messages and tools have bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Literal

import msgspec

from flint.sandbox.demo_backend import tokens

CACHE_BLOCK_TOKENS = 64
PREFIXES_KEPT = 20_000
CHOICES_MAX = 128


class InvalidRequest(Exception):
    """The request cannot be served; the text says why."""


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    function: Function | None = None  # A tool of another kind is counted, and never called.


class FunctionName(msgspec.Struct):
    name: str


class ToolChoice(msgspec.Struct):
    function: FunctionName


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any]


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct):
    model: str
    messages: list[msgspec.Raw]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    n: int | None = 1
    tools: msgspec.Raw = msgspec.Raw(b"")
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    response_format: ResponseFormat | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class Prompt(msgspec.Struct):
    """A request that can be served. `last_user_text` is what the answer and the switches look at."""

    request: ChatRequest
    messages: list[Message]
    functions: list[Function]
    last_user_text: str
    seed: bytes

    @property
    def max_tokens(self) -> int | None:
        newer_name = self.request.max_completion_tokens
        return self.request.max_tokens if newer_name is None else newer_name

    @property
    def stops(self) -> list[str]:
        stop = self.request.stop
        return [stop] if isinstance(stop, str) else list(stop or ())


_request_decoder = msgspec.json.Decoder(ChatRequest)
_message_decoder = msgspec.json.Decoder(Message)
_part_decoder = msgspec.json.Decoder(Part)
_tools_decoder = msgspec.json.Decoder(list[Tool] | None)


def read(body: bytes) -> Prompt:
    """Raises InvalidRequest."""
    try:
        request = _request_decoder.decode(body)
        messages = [_message_decoder.decode(raw) for raw in request.messages]
        tools = _tools_decoder.decode(request.tools) if bytes(request.tools) else None
        last_user = next((message for message in reversed(messages) if message.role == "user"), None)
        last_user_text = "" if last_user is None else _text(last_user)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(str(error)) from error
    if not messages:
        raise InvalidRequest("messages must not be empty")
    if request.n is not None and not 1 <= request.n <= CHOICES_MAX:
        raise InvalidRequest(f"n must be between 1 and {CHOICES_MAX}")
    functions = [tool.function for tool in tools or () if tool.function is not None]
    _check_tool_choice(request.tool_choice, {function.name for function in functions})
    seed = hashlib.blake2b(request.model.encode(), digest_size=16)
    for raw in request.messages:
        seed.update(raw)
    return Prompt(
        request=request, messages=messages, functions=functions, last_user_text=last_user_text, seed=seed.digest()
    )


def _check_tool_choice(choice: str | ToolChoice | None, names: set[str]) -> None:
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice needs tools")
    if isinstance(choice, ToolChoice) and choice.function.name not in names:
        raise InvalidRequest("tool_choice names a function that is not among the tools")


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "".join(_part_decoder.decode(part).text or "" for part in message.content)
    return message.content or ""


def _message_tokens(message: Message) -> int:
    total = tokens.MESSAGE_TOKENS + tokens.count(bytes(message.tool_calls).decode())
    if not isinstance(message.content, list):
        return total + tokens.count(message.content or "")
    for raw in message.content:
        text = _part_decoder.decode(raw).text
        total += min(tokens.PART_TOKENS, len(bytes(raw))) if text is None else tokens.count(text)
    return total


class PrefixCache:
    """The prefixes of earlier prompts, least recently used first out, as a real server's cache of attention keys.

    A prefix is a model, its tools and the first messages; it is kept as a hash with its number of tokens.
    """

    def __init__(self) -> None:
        self._tokens_by_prefix: OrderedDict[bytes, int] = OrderedDict()

    def count(self, prompt: Prompt) -> tuple[int, int]:
        """(prompt tokens, cached tokens); the prompt's prefixes are known from now on.

        Cached tokens come in whole blocks, and the last token is never cached: a server must compute something.
        """
        request = prompt.request
        prefix = hashlib.blake2b(request.model.encode() + b"\0" + bytes(request.tools), digest_size=16).digest()
        total = tokens.count(bytes(request.tools).decode())
        seen = self._remember(prefix, total)
        for raw, message in zip(request.messages, prompt.messages, strict=True):
            prefix = hashlib.blake2b(prefix + bytes(raw), digest_size=16).digest()
            known = self._tokens_by_prefix.get(prefix)
            total = total + _message_tokens(message) if known is None else known
            seen = max(seen, self._remember(prefix, total))
        usable = max(0, min(seen, total - 1))
        return total, usable - usable % CACHE_BLOCK_TOKENS

    def _remember(self, prefix: bytes, total: int) -> int:
        known = self._tokens_by_prefix.get(prefix, 0)
        self._tokens_by_prefix[prefix] = total
        self._tokens_by_prefix.move_to_end(prefix)
        if len(self._tokens_by_prefix) > PREFIXES_KEPT:
            self._tokens_by_prefix.popitem(last=False)
        return known
