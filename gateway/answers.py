"""What backends answer, as customers get it: checked, and mended where SDKs would break."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

from gateway.choices import BackendFailed, StreamedChat, StreamedText, whole_chat, whole_text
from gateway.embeddings import EmbeddingRequest
from gateway.requests import Request

FLOAT_BYTES = 4
_CUT_OFF = {"finish_reason": "length"}


class Chunks:
    """The chunks of one stream, in their order.

    `opened`: a keep-alive has opened the first choice already.
    """

    def __init__(self, request: Request, *, opened: bool = False) -> None:
        self._form = StreamedText if request.ENDPOINT.object == "text_completion" else StreamedChat
        self._most = request.choices
        self._choices = [self._form(0)]
        if opened:
            self._choices[0].silence()

    def mend(self, event: dict[str, Any]) -> dict[str, Any]:
        """The pieces of choices that go on, each in a frame of its own, and the usage. Raises BackendFailed."""
        choices = event.get("choices")
        usage = self._usage(event)
        if choices is None and usage:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise BackendFailed("an event without choices")
        return {"choices": [piece for choice in choices for piece in self._pieces(choice)], "usage": usage}

    def _usage(self, event: dict[str, Any]) -> Any:
        """Groq has it under a name of its own; Moonshot in the choice that ends, which counts for the call only where
        it is the only one."""
        if event.get("usage") is not None:
            return event["usage"]
        vendors = [event.get("x_groq"), *(_dicts(event.get("choices")) if self._most == 1 else [])]
        return next((part["usage"] for part in _dicts(vendors) if part.get("usage") is not None), None)

    def silence(self) -> dict[str, Any] | None:
        """A piece that says nothing; None where every choice has ended."""
        return next((choice.silence() for choice in self._choices if not choice.ended), None)

    def cut_off(self) -> list[dict[str, Any]]:
        """The pieces that end what goes on and on, as if `max_tokens` had been kept to."""
        return [piece for choice in self._choices if not choice.ended for piece in choice.pieces(_CUT_OFF)]

    def _pieces(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        """SDKs count choices up from 0, so those before this one begin before it."""
        index = given.get("index")
        index = index if type(index) is int else 0
        if not 0 <= index < self._most:
            raise BackendFailed("a choice that nobody asked for")
        pieces = []
        while len(self._choices) <= index:
            pieces += self._begin(self._choices[-1])
            self._choices.append(self._form(len(self._choices)))
        return pieces + self._choices[index].pieces(given)

    def _begin(self, choice: StreamedChat | StreamedText) -> list[dict[str, Any]]:
        return [] if choice.opened else [choice.silence()]


def whole(decoded: dict[str, Any], request: Request) -> dict[str, Any]:
    """A whole answer: its choices or vectors, and the usage. Raises BackendFailed."""
    if isinstance(request, EmbeddingRequest):
        return _vectors(decoded, request)
    choices = decoded.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BackendFailed("an answer without choices")
    if len(choices) > request.choices:
        raise BackendFailed("more choices than were asked for")
    form = whole_text if request.ENDPOINT.object == "text_completion" else whole_chat
    ordered = [form(choice, index) for index, choice in enumerate(sorted(choices, key=_place))]
    return {"choices": ordered, "usage": decoded.get("usage")}


def _vectors(decoded: dict[str, Any], request: EmbeddingRequest) -> dict[str, Any]:
    """One vector for each text, in their order, in the form that was asked for: SDKs ask for base64 by themselves."""
    data = decoded.get("data")
    if not isinstance(data, list) or len(data) != request.prompts or not all(isinstance(item, dict) for item in data):
        raise BackendFailed("another number of embeddings than texts")
    form = _as_base64 if request.encoding_format == "base64" else _as_floats
    vectors = [
        {"object": "embedding", "index": index, "embedding": form(item.get("embedding"))}
        for index, item in enumerate(sorted(data, key=_place))
    ]
    return {"data": vectors, "usage": decoded.get("usage")}


def _dicts(parts: Any) -> list[dict[str, Any]]:
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _place(item: dict[str, Any]) -> int:
    index = item.get("index")
    return index if type(index) is int else 0


def _as_base64(vector: Any) -> str:
    """Little-endian float32, as OpenAI's SDKs read it."""
    if isinstance(vector, str):
        return vector
    floats = _as_floats(vector)
    try:
        return base64.b64encode(struct.pack(f"<{len(floats)}f", *floats)).decode()
    except (struct.error, OverflowError):
        raise BackendFailed("a number that is too large for a vector") from None


def _as_floats(vector: Any) -> list[float]:
    if isinstance(vector, list) and all(type(number) in (int, float) for number in vector):
        return vector
    if not isinstance(vector, str):
        raise BackendFailed("an embedding that is no vector")
    try:
        packed = base64.b64decode(vector, validate=True)
        return list(struct.unpack(f"<{len(packed) // FLOAT_BYTES}f", packed))
    except (binascii.Error, struct.error):
        raise BackendFailed("an embedding that is no vector") from None
