"""Switches: how a test or a curious person makes one call, or every call, slow, odd or broken.

One call: a marker in the text of the last user message, `[demo: tokens=300 status=503 retry_after=2]`. It is part
of the prompt, so it passes through a gateway unchanged. Every call: `PUT /control` with the same names as a JSON
object. A marker wins over the control. An unknown name or an impossible value is a 400 that lists the names.

    pace      first_token_ms=N    tokens_per_second=X (0: at once)    tokens=N (natural length; max_tokens still cuts)
              endless (never ends, ignores max_tokens; in JSON ten times too long)
    refuse    status=N   error_body=openai|vllm|detail|text|html|empty   retry_after=TEXT
    break     close_before (no byte)   hang_before (no byte, no end)   hang_after=K   cut_after=K
              cut=fin|rst|eof (eof: a clean end without finish)   error_after=K (error frame, then [DONE])
              In JSON the last three happen in the middle of the body, and error_after is a 200 with an error.
    usage     no_usage   usage_null   usage_at=end|finish|every (also unasked)   usage_style=openai|deepseek|flat
              usage_prompt= usage_completion= usage_total= usage_cached= usage_reasoning=
              each a number of any size and kind, null, inf, nan, omit, or a word that becomes a string
    garbage   garbage=json|sse|half_utf8|html|empty|other_kind   garbage_after=K (2; for the first three, in a stream)
              json: broken JSON   sse: events that break SDKs   half_utf8: a letter cut in two
              html, empty: a 200 with that   other_kind: SSE for JSON and JSON for SSE
    form      no_done   no_finish   finish_reason=WORD|null   roles (in every delta)   crlf   split=N (N-byte writes)
              comments=N (before the first token)   comments_between   blank_lines=N (before JSON)
              long_line=N (one event of more than N bytes)
              tool_calls=N (calls of the request's tools, though tool_choice does not ask for them)
    scope     only_attempts=N (the marker holds while X-Flint-Attempt <= N)   calls=N (control: the next N calls)
              only_calls=N (the marker holds for the first N calls with this text)

K counts tokens that went out before. Flags take no value, or true and false.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

_MARKER = re.compile(r"\[demo:([^\]]{0,2000})\]")
_EVERY_ATTEMPT = 1_000_000_000
TEXTS_KEPT = 10_000

Count = Annotated[int, msgspec.Meta(ge=0, le=200_000)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=64 * 1024 * 1024)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=3_600_000)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class InvalidSwitch(Exception):
    """A switch that does not exist or cannot have this value; the text names the known ones."""


class Switches(msgspec.Struct, frozen=True):
    """What is asked of one call. None and "" mean: as a healthy server does it."""

    first_token_ms: Milliseconds | None = None
    tokens_per_second: Rate | None = None
    tokens: Count | None = None
    endless: bool = False
    status: Annotated[int, msgspec.Meta(ge=300, le=599)] | None = None
    error_body: Literal["openai", "vllm", "detail", "text", "html", "empty"] = "openai"
    retry_after: str = ""
    close_before: bool = False
    hang_before: bool = False
    hang_after: Count | None = None
    cut_after: Count | None = None
    cut: Literal["fin", "rst", "eof"] = "fin"
    error_after: Count | None = None
    no_usage: bool = False
    usage_null: bool = False
    usage_at: Literal["", "end", "finish", "every"] = ""
    usage_style: Literal["openai", "deepseek", "flat"] = "openai"
    usage_prompt: str = ""
    usage_completion: str = ""
    usage_total: str = ""
    usage_cached: str = ""
    usage_reasoning: str = ""
    garbage: Literal["", "json", "html", "sse", "half_utf8", "empty", "other_kind"] = ""
    garbage_after: Count = 2
    no_done: bool = False
    no_finish: bool = False
    finish_reason: str = ""
    roles: bool = False
    crlf: bool = False
    split: Bytes = 0
    comments: Count = 0
    comments_between: bool = False
    blank_lines: Count = 0
    long_line: Bytes = 0
    tool_calls: Count | None = None
    only_attempts: Count = _EVERY_ATTEMPT
    only_calls: Count = _EVERY_ATTEMPT
    calls: Count = _EVERY_ATTEMPT

    def breaks_after(self) -> int | None:
        """How many tokens go out before the stream breaks, if it does."""
        breaks = [at for at in (self.hang_after, self.cut_after, self.error_after) if at is not None]
        return min(breaks, default=None)


HEALTHY = Switches()


def in_marker(text: str) -> dict[str, str]:
    """The words of the markers in a text. Raises InvalidSwitch."""
    if "[demo:" not in text:
        return {}
    words: dict[str, str] = {}
    for marker in _MARKER.findall(text):
        for word in marker.split():
            name, equals, value = word.partition("=")
            words[name] = value if equals else "true"
    read(words)
    return words


def without_marker(text: str) -> str:
    return _MARKER.sub(" ", text) if "[demo:" in text else text


def in_control(document: bytes) -> dict[str, str]:
    """The words of a control document, a JSON object. Raises InvalidSwitch."""
    try:
        values = msgspec.json.decode(document, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidSwitch(f"The control is a JSON object of switches: {error}") from error
    words = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in values.items()
    }
    read(words)
    return words


def read(words: Mapping[str, str]) -> Switches:
    """Raises InvalidSwitch."""
    known = Switches.__struct_fields__
    for name in words:
        if name not in known:
            raise InvalidSwitch(f"Unknown switch {name!r}. Known: {', '.join(known)}.")
    try:
        return msgspec.convert(words, Switches, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSwitch(f"Impossible switch: {error}. Known: {', '.join(known)}.") from error


class Control:
    """The switches in force for every call, until they are changed or their number of calls is used up."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self._calls_left = _EVERY_ATTEMPT
        self._calls_by_text: OrderedDict[int, int] = OrderedDict()

    def set(self, words: dict[str, str]) -> None:
        self.words = words
        self._calls_left = read(words).calls

    def for_call(self, text: str, *, attempt: int) -> Switches:
        """What holds for a call with this last user text. Raises InvalidSwitch."""
        marker = in_marker(text)
        if not marker and not self.words:
            return HEALTHY
        if self._calls_left <= 0:
            self.set({})
        self._calls_left -= 1
        if "only_calls" in marker and self._calls_of(text, attempt) > read(marker).only_calls:
            marker = {}
        layers = [words for words in (self.words, marker) if attempt <= read(words).only_attempts]
        return read({name: value for words in layers for name, value in words.items()})

    def _calls_of(self, text: str, attempt: int) -> int:
        """How many calls with this text there were, this one included; further attempts are the same call."""
        key = hash(text)
        calls = self._calls_by_text.pop(key, 0) + (attempt == 1)
        self._calls_by_text[key] = calls
        if len(self._calls_by_text) > TEXTS_KEPT:
            self._calls_by_text.popitem(last=False)
        return calls
