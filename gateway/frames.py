"""The bytes of an answer: frames of a stream or a JSON body, under our own id and the public name of the model."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from gateway.errors import GatewayError, envelope
from gateway.requests import Request

DONE = b"data: [DONE]\n\n"


class Frames:
    """What all frames of a call have in common is encoded once."""

    def __init__(self, request: Request, *, call_id: UUID, model: str, admitted_at: datetime) -> None:
        self._request = request
        self._identity = {
            "id": f"{request.ENDPOINT.id_prefix}{call_id.hex}",
            "object": request.ENDPOINT.object,
            "created": int(admitted_at.timestamp()),
            "model": model,
        }
        chunk = msgspec.json.encode(self._identity | {"object": request.ENDPOINT.chunk_object})
        self._head = b"data: " + chunk[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if request.wants_usage else b"]}\n\n"

    def chunks(self, choices: list[dict[str, Any]]) -> bytes:
        """A frame for each piece of a choice."""
        return b"".join(self._head + msgspec.json.encode(choice) + self._tail for choice in choices)

    def ending(self, usage: dict[str, Any]) -> bytes:
        """The usage for who asked for it, and [DONE]."""
        if not self._request.wants_usage:
            return DONE
        return self._head + b'],"usage":' + msgspec.json.encode(usage) + b"}\n\n" + DONE

    def whole(self, answer: dict[str, Any], usage: dict[str, Any]) -> bytes:
        """A JSON answer: the choices, or the vectors of embeddings."""
        if "data" in answer:
            names = {name: self._identity[name] for name in ("object", "model")}
            return msgspec.json.encode(names | {"data": answer["data"], "usage": usage})
        return msgspec.json.encode(self._identity | {"choices": answer["choices"], "usage": usage})


def failure(error: GatewayError) -> bytes:
    """How a stream ends that cannot be finished: `error` is the first key, by which clients know it."""
    return b"data: " + envelope(error) + b"\n\n" + DONE
