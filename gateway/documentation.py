"""What the documentation page says of /v1, read from the code that does it, so that neither can go its own way.

A **Parameter** is a row in the table of an endpoint, a **Refusal** one in the table of errors. The words are here and
in `meanings`; what they are about comes from the types of the requests and from `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from gateway import bodies, errors, idempotency, meanings
from gateway.errors import GatewayError
from gateway.requests import Request

_NO_BOUND = 2**31 - 1  # From here on a bound only says what a number can be at all.

# In the order of the page: by status, then the most frequent first.
OCCASIONS: dict[type[GatewayError], str] = {
    errors.InvalidRequest: "The body is no JSON object, or a parameter is missing, of the wrong type or out of bounds. "
    "`param` names it.",
    errors.ContextLengthExceeded: "The prompt is longer than the context of the model. Shorten it.",
    errors.RequestNeverFits: "The call alone can use more tokens than you may use in a minute, so waiting cannot help. "
    "Ask for fewer `max_tokens`.",
    errors.WrongModel: "The model is of a type that another URL serves; the message says which.",
    errors.BackendRefusedPrompt: "The model does not accept something in the request: its tools, its schema, an image. "
    "`param` names it, where we know it.",
    errors.InvalidKey: "The key is missing, mistyped, revoked or expired. Send `Authorization: Bearer tk-...`.",
    errors.InsufficientBalance: "The most this call can cost is more than what is there to spend. The message says "
    "both, and which `max_tokens` would fit.",
    errors.KeyBudgetExceeded: "The most this call can cost is more than its key has left of a spend cap. Raise the "
    "cap on the page of the key, or wait for its next period.",
    errors.KeyDisabled: "The key was disabled on its page.",
    errors.AccountDisabled: "The account was disabled. Write to us.",
    errors.ModelNotFound: "There is no such model, or it is not for sale. `GET /v1/models` lists those that are.",
    errors.GenerationNotFound: "Your account made no call with this id, or it was refused or free.",
    errors.UnknownUrl: "There is nothing at this URL.",
    errors.MethodNotAllowed: "This URL does not know the method; `Allow` names those that it knows.",
    errors.IdempotencyKeyInUse: "The first call with this Idempotency-Key is still running.",
    errors.AnswerNotKept: "The first call with this Idempotency-Key was made and charged, but its answer could not be "
    "kept. The message names its id.",
    errors.BodyTooLarge: f"The body is larger than {bodies.BODY_LIMIT // 2**20} MB, unpacked.",
    errors.UnsupportedEncoding: "`Content-Encoding` is neither gzip nor deflate.",
    errors.IdempotencyKeyReused: "This Idempotency-Key was used with another body within the last "
    f"{idempotency.KEPT_HOURS} hours.",
    errors.RateLimited: "A [limit](#limits) is reached; the code says which.",
    errors.GatewayError: "A fault of ours. Quote the `x-request-id` when you write to us.",
    errors.BackendUnavailable: "No backend of this model can answer at the moment, or the one that answered failed.",
    errors.Unavailable: "A part of ours is away for a moment, or this server is being restarted.",
}
# Nobody gets these: the customer has hung up.
UNSEEN = frozenset({errors.ClientGone})

# What openai-python raises. Other clients name them much the same.
_RAISED = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}
_REPEATED = {409, 429, 500, 503}  # By OpenAI's SDKs, without being asked.


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    anchor: str

    @property
    def template(self) -> str:
        return f"gateway/docs/{self.anchor.replace('-', '_')}.html"


SECTIONS = [
    Section("Quick start", "quick-start"),
    Section("Models", "models"),
    Section("Chat completions", "chat"),
    Section("Completions", "completions"),
    Section("Embeddings", "embeddings"),
    Section("Errors", "errors"),
    Section("Limits", "limits"),
    Section("What a call costs", "cost"),
    Section("Broken calls", "broken-calls"),
    Section("Idempotency", "idempotency"),
    Section("HTTP", "http"),
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """`default` is empty for what is required."""

    name: str
    type: str
    bounds: str
    default: str
    meaning: SafeString


@dataclass(frozen=True, slots=True)
class Refusal:
    """`repeated` says whether a repeat can help, so that SDKs make one by themselves."""

    status: int
    codes: list[str]
    occasion: SafeString
    repeated: bool
    raised: str


def parameters(form: type[Request]) -> list[Parameter]:
    """The documented parameters of a request, those that are required first."""
    schemas = msgspec.json.schema_components([form], ref_template="{name}")[1]
    schema = schemas[form.__name__]
    defaults = meanings.DEFAULTS | form.DEFAULTS
    found = [
        Parameter(
            name=name,
            type=" or ".join(dict.fromkeys(_kinds(alternatives))),
            bounds=", ".join(dict.fromkeys(filter(None, map(_bounds, alternatives)))),
            default="" if name in schema["required"] else _default(defaults.get(name)),
            meaning=_marked(meanings.OF_PARAMETERS[name]),
        )
        for name, parameter in schema["properties"].items()
        for alternatives in [parameter.get("anyOf", [parameter])]
    ]
    order = list(meanings.OF_PARAMETERS)
    return sorted(found, key=lambda parameter: (bool(parameter.default), order.index(parameter.name)))


def refusals() -> list[Refusal]:
    return [
        Refusal(
            status=kind.status_code,
            codes=kind.codes(),
            occasion=_marked(occasion),
            repeated=kind.status_code in _REPEATED and kind is not errors.AnswerNotKept,
            raised=_RAISED.get(kind.status_code, "APIStatusError"),
        )
        for kind, occasion in OCCASIONS.items()
    ]


def _kinds(alternatives: Iterable[dict[str, Any]]) -> Iterator[str]:
    for schema in alternatives:
        if "enum" in schema:
            yield "string"
        elif schema.get("type") != "null":
            yield schema.get("type", "object")


def _bounds(schema: dict[str, Any]) -> str:
    match schema:
        case {"enum": values}:
            return ", ".join(values)
        case {"minimum": least, "maximum": most} if most < _NO_BOUND:
            return f"{least:,} to {most:,}"
        case {"minimum": least} if least > -_NO_BOUND:
            return f"at least {least:,}"
        case {"type": "array", "maxItems": most}:
            return f"at most {most:,}"
        case {"type": "array", "minItems": 1}:
            return "not empty"
        case _:
            return ""


def _default(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else msgspec.json.encode(value).decode()


def _marked(text: str) -> SafeString:
    """`code` and [links](#to-sections) as HTML. The text is ours."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return mark_safe(re.sub(r"\[([^]]+)\]\((#[\w-]+)\)", r'<a href="\2">\1</a>', text))  # noqa: S308  # Escaped above.
