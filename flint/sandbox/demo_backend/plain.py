"""The two older endpoints: completions (text goes on where a prompt ends) and embeddings.

A plain completion is served as a chat with one message for each prompt, of which each gets its own answers; only the
frames look different. Token ids stand for as many one-letter words.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from flint.sandbox.demo_backend import frames, prompts, tokens
from flint.sandbox.demo_backend.answers import Choice
from flint.sandbox.demo_backend.frames import Frames, Place, UsageFigures
from flint.sandbox.demo_backend.prompts import Prompt
from flint.sandbox.demo_backend.switches import Switches

DIMENSIONS = 16
TEXT = Place(b'"text":')

Texts = str | list[str | int | list[int]]


class CompletionRequest(msgspec.Struct):
    model: str
    prompt: Texts
    stream: bool | None = False
    stream_options: prompts.StreamOptions | None = None
    max_tokens: int | None = 16
    stop: str | list[str] | None = None
    n: int | None = 1


class EmbeddingRequest(msgspec.Struct):
    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


def read_completion(body: bytes) -> Prompt:
    """The same as a chat. Raises prompts.InvalidRequest."""
    try:
        request = msgspec.json.decode(body, type=CompletionRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise prompts.InvalidRequest(str(error)) from error
    texts = _texts(request.prompt)
    chat = {
        **msgspec.structs.asdict(request),
        "messages": [{"role": "user", "content": text} for text in texts],
        "n": (request.n or 1) * len(texts),
    }
    return prompts.read(msgspec.json.encode(chat))


def read_embedding(body: bytes) -> tuple[EmbeddingRequest, list[str]]:
    """The request and its texts. Raises prompts.InvalidRequest."""
    try:
        request = msgspec.json.decode(body, type=EmbeddingRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise prompts.InvalidRequest(str(error)) from error
    return request, _texts(request.input)


def count(texts: Sequence[str]) -> int:
    return sum(tokens.count(text) for text in texts)


def embeddings(request: EmbeddingRequest, texts: Sequence[str], switches: Switches) -> bytes:
    """A JSON answer: for each text a vector of length 1 that follows from the text alone."""
    vectors = [_vector(text, request.dimensions or DIMENSIONS) for text in texts]
    data = [{"object": "embedding", "index": i, "embedding": _form(request, v)} for i, v in enumerate(vectors)]
    answer: dict[str, Any] = {"object": "list", "data": data, "model": request.model}
    if not switches.no_usage:
        usage = frames.usage_json(UsageFigures(count(texts), 0, 0, 0), switches)
        answer["usage"] = msgspec.Raw(usage)
    return msgspec.json.encode(answer)


class TextFrames(Frames):
    """A plain completion has a text where a chat has a delta or a message."""

    chunk_object = whole_object = b"text_completion"
    token_end = b',"logprobs":null,"finish_reason":null}]'

    def opening(self, choices: int) -> bytes:
        return b""

    def token_head(self, index: int) -> bytes:
        return b'{"index":%d,' % index

    def placed(self, place: Place) -> Place:
        return TEXT

    def choice(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        return b'{"index":%d,"text":"","logprobs":null,"finish_reason":%b}' % (index, finish_reason)

    def whole_choice(self, index: int, choice: Choice) -> bytes:
        text = msgspec.json.encode("".join(choice.reasoning) + "".join(choice.content))
        return b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b}' % (index, text, self.finish_reason(choice))


def _texts(given: Texts) -> list[str]:
    if isinstance(given, str):
        return [given]
    if all(isinstance(item, int) for item in given):
        return [" a" * len(given)]
    return [item if isinstance(item, str) else " a" * len(item) for item in given if not isinstance(item, int)]


def _vector(text: str, dimensions: int) -> list[float]:
    noise = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    raw = [int.from_bytes(noise[2 * i : 2 * i + 2]) / 32768 - 1 for i in range(dimensions)]
    length = math.sqrt(sum(number * number for number in raw)) or 1.0
    return [number / length for number in raw]


def _form(request: EmbeddingRequest, vector: list[float]) -> list[float] | str:
    if request.encoding_format != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
