"""POST /v1/chat/completions: what a conversation asks for.

What is documented is checked here, so that a mistake is told with its place and costs nothing. An image's URL is passed
on to the backend and never fetched by us; one that points into our networks is refused. What a model makes of tools
and schemas is the backend's affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from gateway import addresses
from gateway.errors import InvalidRequest
from gateway.requests import Dialect, Endpoint, Sampled, Tokens

TOOLS_LIMIT = 128
BEGINNING_MESSAGES, BEGINNING_LIMIT = 10, 16 * 1024  # What tells conversations apart, and characters of each.

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
Url = Annotated[str, Meta(pattern="^(https?://|data:)")]
# As the laxest parser takes it, which drops blanks and control characters and needs no slashes.
WEB = re.compile(r"[\x00-\x20]*" + r"[\t\n\r]*".join("http") + r"[\t\n\rs]*:", re.IGNORECASE)


class Text(Struct, tag_field="type", tag="text"):
    text: str


class ImageUrl(Struct):
    url: Url
    detail: Literal["auto", "low", "high"] | None = None


class Image(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class Sound(Struct):
    data: str
    format: str


class Audio(Struct, tag_field="type", tag="input_audio"):
    input_audio: Sound


class File(Struct, tag_field="type", tag="file"):
    file: dict[str, Any]


class Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


Part = Text | Image | Audio | File | Refusal


class Called(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: Called
    type: Literal["function"] = "function"


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Called | None = None
    tool_call_id: str | None = None


class Function(Struct):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: Function


class Chosen(Struct):
    name: str


class ChosenTool(Struct):
    type: Literal["function"]
    function: Chosen


class JsonSchema(Struct):
    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


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
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=TOOLS_LIMIT)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Meta(max_length=TOOLS_LIMIT)] | None = None
    function_call: Literal["none", "auto"] | Chosen | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    metadata: dict[str, Any] | None = None
    modalities: list[Literal["text", "audio"]] | None = None

    @property
    def output_limit(self) -> int:
        """`max_tokens` is the older name of `max_completion_tokens`; backends are told the older one: all know it."""
        return self.max_completion_tokens or super().output_limit

    @property
    def pieces(self) -> int:
        return len(self.messages)

    @property
    def beginning(self) -> str:
        """All up to the first question."""
        said = []
        for message in self.messages[:BEGINNING_MESSAGES]:
            said.append(f"{message.role} {_first_text(message)[:BEGINNING_LIMIT]}")
            if message.role == "user":
                break
        return "\n".join(said)

    @property
    def text_only(self) -> bool:
        return all(isinstance(part, Text) for message in self.messages for part in _parts(message))

    def texts(self, fields: dict[str, Any]) -> Iterator[bytes]:
        said = [fields.get("tools"), fields.get("functions")]
        said += [message.get(name) for message in fields["messages"] for name in ("tool_calls", "function_call")]
        yield from (msgspec.json.encode(value) for value in said if value)
        for message in self.messages:
            if isinstance(message.content, str):
                yield message.content.encode()
            yield from (part.text.encode() for part in _parts(message) if isinstance(part, Text))

    def check(self) -> None:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest(
                "`max_tokens` and `max_completion_tokens` mean the same, and differ here. Give one of them.",
                param="max_completion_tokens",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("`top_logprobs` needs `logprobs` to be true.", param="top_logprobs")
        if self.response_format and self.response_format.type == "json_schema" and not self.response_format.json_schema:
            raise InvalidRequest(
                "`response_format` of the type json_schema needs a `json_schema`.", param="response_format.json_schema"
            )
        for place, message in enumerate(self.messages):
            if message.role == "tool" and not message.tool_call_id:
                raise InvalidRequest(
                    "A tool's message needs the `tool_call_id` of the call that it answers.",
                    param=f"messages[{place}].tool_call_id",
                )
        self._check_urls()
        self._check_choice()

    def _check_urls(self) -> None:
        """A backend that fetches what it is pointed at reaches what only it can."""
        for place, message in enumerate(self.messages):
            for number, part in enumerate(_parts(message)):
                for name, url in _urls(part):
                    if not addresses.is_outside(url):
                        raise InvalidRequest(
                            "This URL is not one of the public internet. Give a public one, or the content as `data:`.",
                            param=f"messages[{place}].content[{number}].{name}",
                        )

    def _check_choice(self) -> None:
        """Only tools that are there can be asked for."""
        names = {tool.function.name for tool in self.tools or ()}
        if self.tool_choice == "required" and not names:
            raise InvalidRequest("`tool_choice` is required, but there are no `tools`.", param="tool_choice")
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.function.name not in names:
            raise InvalidRequest("`tool_choice` names a function that is not among the `tools`.", param="tool_choice")
        functions = {function.name for function in self.functions or ()}
        if isinstance(self.function_call, Chosen) and self.function_call.name not in functions:
            raise InvalidRequest(
                "`function_call` names a function that is not among the `functions`.", param="function_call"
            )

    def forwarded(self, fields: dict[str, msgspec.Raw], dialect: Dialect) -> dict[str, Any]:
        body = super().forwarded(fields, dialect)
        if not dialect.developer_role and b'"developer"' in bytes(fields["messages"]):
            body["messages"] = _as_system(fields["messages"])
        return body

    def forget_texts(self) -> None:
        self.messages = []
        self.tools = self.functions = self.response_format = self.metadata = None


def _as_system(messages: msgspec.Raw) -> list[dict[str, msgspec.Raw]]:
    """The messages for a backend that does not know the newer name of its role."""
    said = msgspec.json.decode(messages, type=list[dict[str, msgspec.Raw]])
    for message in said:
        if bytes(message["role"]) == b'"developer"':
            message["role"] = msgspec.Raw(b'"system"')
    return said


def _urls(part: Part) -> Iterator[tuple[str, str]]:
    """Where a backend may look for the content of a part: the name of the field, and the URL."""
    if isinstance(part, Image):
        found = {"image_url.url": part.image_url.url}
    elif isinstance(part, File):  # Documented is base64, but some backends take URLs in it.
        named = {name: value for name, value in part.file.items() if isinstance(value, str) and name != "filename"}
        found = {f"file.{name}": value for name, value in named.items()}
    else:
        return
    yield from ((name, url) for name, url in found.items() if WEB.match(url))


def _first_text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return next((part.text for part in _parts(message) if isinstance(part, Text)), "")


def _parts(message: Message) -> list[Part]:
    return message.content if isinstance(message.content, list) else []
