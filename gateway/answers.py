"""What backends answer, as customers get it: checked, and mended where SDKs would break."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

from gateway.embeddings import EmbeddingRequest
from gateway.requests import Endpoint, Request

FLOAT_BYTES = 4


class BackendFailed(Exception):
    """The message is for our logs only."""


class Chunks:
    """The chunks of one stream, in their order."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._mend = _mend_text if endpoint.chunk_object == "text_completion" else self._mend_delta
        self._begun: set[int] = set()

    def chunk(self, decoded: dict[str, Any]) -> dict[str, Any]:
        """Raises BackendFailed."""
        choices = decoded.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise BackendFailed("an event without choices")
        for choice in choices:
            if type(choice.get("index")) is not int:
                choice["index"] = 0
            self._mend(choice)
        return decoded

    def _mend_delta(self, choice: dict[str, Any]) -> None:
        """SDKs count on an index and a delta, and put roles that come twice together as "assistantassistant"."""
        if not isinstance(choice.get("delta"), dict):
            choice["delta"] = {}
        if choice["index"] in self._begun:
            choice["delta"].pop("role", None)
        self._begun.add(choice["index"])


def whole(decoded: dict[str, Any], request: Request) -> dict[str, Any]:
    """A whole answer. Raises BackendFailed."""
    if isinstance(request, EmbeddingRequest):
        return _vectors(decoded, request)
    choices = decoded.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BackendFailed("an answer without choices")
    if request.ENDPOINT.object == "text_completion":
        for choice in choices:
            _mend_text(choice)
    elif not all(isinstance(choice.get("message"), dict) for choice in choices):
        raise BackendFailed("a choice without a message")
    return decoded


def _mend_text(choice: dict[str, Any]) -> None:
    if not isinstance(choice.get("text"), str):
        choice["text"] = ""


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


def _place(item: dict[str, Any]) -> int:
    index = item.get("index")
    return index if type(index) is int else 0


def _as_base64(vector: Any) -> str:
    """Little-endian float32, as OpenAI's SDKs read it."""
    if isinstance(vector, str):
        return vector
    floats = _as_floats(vector)
    return base64.b64encode(struct.pack(f"<{len(floats)}f", *floats)).decode()


def _as_floats(vector: Any) -> list[float]:
    try:
        if isinstance(vector, str):
            packed = base64.b64decode(vector, validate=True)
            return list(struct.unpack(f"<{len(packed) // FLOAT_BYTES}f", packed))
        if isinstance(vector, list) and all(type(number) in (int, float) for number in vector):
            return vector
    except (binascii.Error, struct.error):
        pass
    raise BackendFailed("an embedding that is no vector")
