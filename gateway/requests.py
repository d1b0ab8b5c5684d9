"""The body of a call, from bytes to a typed request. Its forms are those of `chat`, `completions` and `embeddings`.

Documented parameters are checked against their bounds and get their defaults; everything else of the OpenAI schema is
passed on as it came. One function, `parse`, maps every fault of a body to a 400.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

from gateway.bodies import LARGE_BODY
from gateway.errors import InvalidRequest

# Larger bodies are parsed in a thread, so that they do not hold up everybody else's streams.
INLINE_BYTES = 128 * 1024
# An array of a million empty objects takes 60 times its size in memory, so elements are bounded too.
ELEMENT_LIMIT = 1_000_000
DEPTH_LIMIT = 200
MESSAGE_LIMIT = 200  # Characters of what a refusal says of a fault.

_ASCII = bytes(range(128))
# While it is parsed, a body takes several times its size. Large ones do so one after the other.
_large = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

# Parameters with which a customer could steer a backend's scheduling, memory, models, templates or cost past what was
# held: among them other servers' words for max_tokens and n, which they prefer to ours.
WITHHELD = frozenset(
    {
        "adapter_id", "adapters", "add_generation_prompt", "allowed_token_ids", "background", "best_of",
        "bootstrap_host", "bootstrap_port", "bootstrap_room", "cache_salt", "chat_template", "continue_final_message",
        "custom_logit_processor", "custom_params", "data_parallel_rank", "disaggregated_params", "draft_model", "echo",
        "extra_key", "generation_config", "id_slot", "keep_alive", "kv_transfer_params", "length_penalty",
        "logits_processors", "lora", "lora_path", "max_new_tokens", "mm_processor_kwargs", "models", "n_cmpl",
        "n_predict", "num_beams", "num_draft_tokens", "num_predict", "num_return_sequences", "options", "plugins",
        "priority", "prompt_embeds", "prompt_logprobs", "provider", "request_id", "return_hidden_states",
        "return_progress", "return_token_ids", "return_tokens_as_token_ids", "rid", "route", "service_tier",
        "session_id", "session_params", "store", "transforms", "use_beam_search", "vllm_xargs", "web_search_options",
    }
)  # fmt: skip
# Customers give variables to a model's template, such as enable_thinking. These here are arguments of the function that
# fills it in; a template of the customer's own could make any prompt out of a short one.
TEMPLATE_VARIABLES = ("chat_template_kwargs", "chat_template_args")
TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
        "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip

# What no backend can do without, whatever its lists say.
ESSENTIAL = frozenset({"model", "messages", "prompt", "input", "max_tokens", "stream"})
STOPS_LIMIT = 4

Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One URL of the road, under /v1 here as at the backends, and the names that its answers carry.

    `sells` are the types of models that it serves.
    """

    path: str
    object: str
    id_prefix: str
    chunk_object: str
    sells: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a backend understands. Without `allowed` ones, all parameters that are not denied.

    `renamed` says what it calls a parameter of ours; `added` is told with every call. `stream_options` ask it for the
    usage of a stream; None does not.
    """

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    developer_role: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    stream_options: Mapping[str, bool] | None = field(default_factory=lambda: {"include_usage": True})

    def takes(self, name: str) -> bool:
        """Whether it is told of a parameter. What is allowed is what customers send: the usage is asked for by us."""
        if name in ESSENTIAL:
            return True
        return name not in self.denied and (not self.allowed or name in self.allowed or name == "stream_options")

    def worded(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body in its own words. Of two under one name the renamed one stays, whose value was checked."""
        kept = {name: value for name, value in body.items() if name not in self.renamed}
        renamed = {self.renamed[name]: value for name, value in body.items() if name in self.renamed}
        return {**kept, **self.added, **renamed}


class StreamOptions(Struct):
    include_usage: bool | None = None


class Request(Struct, kw_only=True):
    """What is known of a call before it is made. `null` means absent, whatever the parameter."""

    ENDPOINT: ClassVar[Endpoint]
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    user: str | None = None

    @property
    def output_limit(self) -> int:
        """The most tokens of one choice."""
        return 0

    @property
    def choices(self) -> int:
        """How many answers are generated, and paid."""
        return 0

    @property
    def prompts(self) -> int:
        """How many texts the backend reads, each by itself."""
        return 1

    @property
    def pieces(self) -> int:
        """How many times a template adds its tokens around a text."""
        return self.prompts

    @property
    def streamed(self) -> bool:
        return False

    @property
    def beginning(self) -> str:
        """What stays the same while a conversation goes on; empty where there is none."""
        return ""

    @property
    def wants_usage(self) -> bool:
        return False

    @property
    def text_only(self) -> bool:
        """Whether nothing in it is an image, a sound or a file."""
        return True

    @property
    def token_ids(self) -> int:
        """How many tokens came as numbers of a vocabulary."""
        return 0

    def texts(self, fields: dict[str, Any]) -> Iterator[bytes]:
        """What surely is in the prompt."""
        raise NotImplementedError

    def forget_texts(self) -> None:
        """Drop what is large, once it was checked and measured: for the backend it is kept as JSON."""

    def check(self) -> None:
        """Raises InvalidRequest where single parameters are right and together are not."""

    def forwarded(self, fields: dict[str, msgspec.Raw], dialect: Dialect) -> dict[str, Any]:
        """What this endpoint says to a backend in place of the customer's own fields."""
        return {}


class Sampled(Request, kw_only=True):
    """What chat and plain completions have in common. Without `stream`, `stream_options` mean nothing, and no harm."""

    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stop: str | Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=STOPS_LIMIT)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def output_limit(self) -> int:
        return self.max_tokens or self.DEFAULTS["max_tokens"]

    @property
    def choices(self) -> int:
        return (self.n or 1) * self.prompts

    @property
    def streamed(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def forwarded(self, fields: dict[str, msgspec.Raw], dialect: Dialect) -> dict[str, Any]:
        """With a question for the usage, whether the customer asked or not. Nothing to stop at is said by nothing."""
        body: dict[str, Any] = {"max_tokens": self.output_limit, "stream": self.streamed}
        if not self.stop:
            body["stop"] = None
        if self.streamed:
            body["stream_options"] = dialect.stream_options
        return body


@dataclass(frozen=True, slots=True)
class Parsed:
    """The typed request, all of its fields as they came, and the size of its prompt.

    Fields are kept as JSON, which never takes more memory than the body did; Python's strings can take four times that.

    `beginning` is a digest of how the conversation begins, if the call is part of one.
    `prompt_bytes` is everything that a backend could put into the prompt; `ascii_bytes` and `other_bytes` only what
    surely is in it: the texts and the tools.
    """

    request: Request
    fields: dict[str, msgspec.Raw]
    beginning: bytes
    prompt_bytes: int
    ascii_bytes: int
    other_bytes: int
    token_ids: int
    pieces: int
    text_only: bool

    @property
    def prompt_name(self) -> str:
        """The parameter that holds the prompt."""
        return next(name for name in ("messages", "prompt", "input") if name in self.fields)

    def sent(self) -> None:
        """No backend needs the fields any more."""
        self.fields.clear()


async def parse(body: bytes, form: type[Request]) -> Parsed:
    """Raises InvalidRequest, and nothing else."""
    if len(body) <= INLINE_BYTES:
        return _parse(body, form)
    thread = _large if len(body) > LARGE_BODY else None
    return await asyncio.get_running_loop().run_in_executor(thread, _parse, body, form)


def _parse(body: bytes, form: type[Request]) -> Parsed:
    if body.count(b",") + body.count(b"[") + body.count(b"{") > ELEMENT_LIMIT:
        raise InvalidRequest("The request body has too many elements.")
    try:
        fields = msgspec.json.decode(body)
        if not isinstance(fields, dict):
            raise InvalidRequest("The request body must be a JSON object.")
        request = msgspec.convert(fields, form)
        request.check()
        if b"\\u0000" in body and "\0" in "".join(_texts(fields, DEPTH_LIMIT)):
            raise InvalidRequest("The request body holds the character \\u0000, which no model reads.")
        parsed = _measured(request, fields)
    except msgspec.ValidationError as fault:
        raise explained(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        raise InvalidRequest("The request body is not valid JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    request.forget_texts()
    return parsed


def _measured(request: Request, fields: dict[str, Any]) -> Parsed:
    """Encoding the fields also proves that they can be passed on."""
    kept = {name: value for name, value in fields.items() if value is not None and name not in WITHHELD}
    for name in TEMPLATE_VARIABLES:
        if isinstance(variables := kept.get(name), dict):
            kept[name] = {key: value for key, value in variables.items() if key not in TEMPLATE_ARGUMENTS}
    encoded = {name: msgspec.json.encode(value) for name, value in kept.items()}
    ascii_bytes, other_bytes = _sizes(request.texts(fields))
    return Parsed(
        request=request,
        fields={name: _kept(value) for name, value in encoded.items()},
        beginning=hashlib.sha256(said.encode()).digest() if (said := request.beginning) else b"",
        prompt_bytes=sum(len(name.encode()) + len(value) for name, value in encoded.items()),
        ascii_bytes=ascii_bytes,
        other_bytes=other_bytes,
        token_ids=request.token_ids,
        pieces=request.pieces,
        text_only=request.text_only,
    )


def _sizes(texts: Iterable[bytes]) -> tuple[int, int]:
    """The bytes of ASCII, and the others."""
    size = others = 0
    for text in texts:
        size += len(text)
        others += 0 if text.isascii() else len(text.translate(None, _ASCII))
    return size - others, others


def _kept(encoded: bytes) -> msgspec.Raw:
    """A copy that takes what it needs: msgspec's own has room for half as much again."""
    return msgspec.Raw(bytes(memoryview(encoded)))


def forwarded(parsed: Parsed, *, backend_model: str, dialect: Dialect) -> dict[str, Any]:
    """What goes to the backend, as far as it takes it: the customer's fields, our defaults, what the endpoint adds."""
    body: dict[str, Any] = dict(parsed.fields)
    for name in ("max_completion_tokens", "stream_options"):
        body.pop(name, None)
    own = parsed.request.forwarded(parsed.fields, dialect)
    body = {**parsed.request.DEFAULTS, **body, **own, "model": backend_model}
    return dialect.worded({name: value for name, value in body.items() if value is not None and dialect.takes(name)})


def explained(fault: str) -> InvalidRequest:
    """msgspec says: Expected `int` >= 1 - at `$.max_tokens`. Customers get the parameter's name."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", fault, flags=re.DOTALL)
    reason, path = (match[1], match[2]) if match else (fault, None)
    reason = reason[:MESSAGE_LIMIT]  # It may repeat a value, which may be as long as the body.
    missing = re.fullmatch(r"Object missing required field `(\w+)`", reason)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        reason = "This parameter is required."
    # `[...]` stands for some member of an object, which has no name here.
    param = path.replace("[...]", "[]") if path and path != "[...]" else None
    return InvalidRequest(f"Invalid `{param}`: {reason}" if param else reason, param=param)


def _texts(value: Any, depth: int) -> list[str]:
    """Every string inside a decoded value."""
    if depth == 0:
        raise RecursionError
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in _texts(item, depth - 1)]
        case dict():
            return [text for item in value.items() for part in item for text in _texts(part, depth - 1)]
        case _:
            return []
