"""Why a backend refuses a request: read from its own words, told to the customer in ours.

A backend's words may hold its address, a path, a stack trace or somebody's prompt, so none of them goes on, to
customers or to logs. What goes on is which of the known reasons they are about, and the name of a parameter that the
customer sent.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import BackendRefusedPrompt, ContextLengthExceeded, GatewayError
from gateway.requests import Parsed

CONTEXT = re.compile(
    r"context.?(length|window|size)|max_model_len|maximum model length|prompt is too long"
    r"|max_new_tokens` must be|must have less than \d+ tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that a request may have, and that a backend may find wrong with it."""

    about: re.Pattern[str]
    param: str
    message: str
    is_media: bool = False

    def fits(self, text: str, parsed: Parsed) -> bool:
        has_it = not parsed.text_only if self.is_media else self.param in parsed.fields
        return has_it and self.about.search(text) is not None


REASONS = (
    Reason(
        re.compile(r"image|video|audio|media|multi-?modal|vision|content type", re.IGNORECASE),
        "messages",
        "The model could not read an image or a file of this request.",
        is_media=True,
    ),
    Reason(
        re.compile(r"\btool", re.IGNORECASE),
        "tools",
        "The model does not accept these tools: look at their JSON schemas and at `tool_choice`.",
    ),
    Reason(
        re.compile(r"schema|grammar|guided|structured|response_format", re.IGNORECASE),
        "response_format",
        "The model does not accept this `response_format`.",
    ),
    Reason(
        re.compile(r"roles? must|conversation roles|chat template", re.IGNORECASE),
        "messages",
        "The model does not accept the roles of these messages in this order.",
    ),
)
# Backends get these from us, not from the customer.
_OURS = frozenset({"model", "stream", "stream_options"})
_WORD = re.compile(r"[\w.-]{1,64}")


def explained(words: bytes, parsed: Parsed, *, context_tokens: int) -> GatewayError:
    """The refusal that a backend's answer to this request means."""
    text = words.decode(errors="replace")
    if CONTEXT.search(text):
        return ContextLengthExceeded(context_tokens=context_tokens, param=parsed.prompt_name)
    for reason in REASONS:
        if reason.fits(text, parsed):
            return BackendRefusedPrompt(f"{reason.message} Nothing was charged.", param=reason.param)
    if param := _named(words, text, parsed.fields):
        return BackendRefusedPrompt(
            f"The model does not accept `{param}` as it is in this request. Nothing was charged.", param=param
        )
    return BackendRefusedPrompt("The model refused this request as invalid. Nothing was charged.")


def kind(words: bytes) -> str:
    """What may be logged of a backend's words: the type and the code of its error."""
    error = _error(words)
    known = [str(error[name]) for name in ("type", "code") if error.get(name)]
    return " ".join(word for word in known if _WORD.fullmatch(word)) or "for a reason of its own"


def _named(words: bytes, text: str, fields: Container[str]) -> str | None:
    """The parameter of the customer's that the words name, in one of the ways of backends."""
    error, detail = _error(words), _decoded(words).get("detail")
    paths = [str(error.get("param")).split(".")]
    paths += [fault["loc"] for fault in detail if _is_fault(fault)] if isinstance(detail, list) else []
    named = [name.partition("[")[0] for path in paths for name in path if isinstance(name, str)]
    quoted = re.findall(r"['\"`](\w{1,64})['\"`]", text)
    candidates = [name for name in (*named, *quoted) if name in fields and name not in _OURS]
    return next((name for name in candidates if _WORD.fullmatch(name)), None)


def _is_fault(fault: Any) -> bool:
    return isinstance(fault, dict) and isinstance(fault.get("loc"), list)


def _error(words: bytes) -> dict[str, Any]:
    """The object that describes the error, in its envelope or without one."""
    body = _decoded(words)
    inner = body.get("error")
    return inner if isinstance(inner, dict) else body


def _decoded(words: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(words)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
