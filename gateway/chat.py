"""POST /v1/chat/completions: what a conversation asks for."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.requests import Endpoint, Sampled, Tokens


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionRequest(Sampled, kw_only=True):
    """The documented parameters."""

    ENDPOINT: ClassVar[Endpoint] = Endpoint(
        path="/chat/completions",
        object="chat.completion",
        id_prefix="chatcmpl-",
        chunk_object="chat.completion.chunk",
        sells=frozenset({"chat", "reasoning"}),
    )
    DEFAULTS: ClassVar[dict[str, Any]] = {"max_tokens": 1024, "temperature": 0.7, "top_p": 1.0, "presence_penalty": 0.0}

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None

    @property
    def output_limit(self) -> int:
        return self.max_completion_tokens or super().output_limit

    @property
    def pieces(self) -> int:
        return len(self.messages)

    @property
    def text_only(self) -> bool:
        return all(
            part.get("type") == "text"
            for message in self.messages
            if isinstance(message.content, list)
            for part in message.content
        )

    def text_bytes(self, fields: dict[str, Any]) -> int:
        said = [fields.get("tools"), fields.get("functions")]
        said += [message.get(name) for message in fields["messages"] for name in ("tool_calls", "function_call")]
        size = sum(len(msgspec.json.encode(value)) for value in said if value)
        return size + sum(_text_bytes(message) for message in self.messages)

    def forget_texts(self) -> None:
        self.messages = []


def _text_bytes(message: Message) -> int:
    if isinstance(message.content, list):
        texts = [part["text"] for part in message.content if isinstance(part.get("text"), str)]
        return sum(len(text.encode()) for text in texts)
    return len((message.content or "").encode())
