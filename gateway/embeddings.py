"""POST /v1/embeddings: texts become vectors. Nothing is generated, so only the input is paid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from gateway.errors import InvalidRequest
from gateway.requests import Endpoint, Request

INPUTS_LIMIT = 2048

Text = Annotated[str, Meta(min_length=1)]
TokenIds = list[Annotated[int, Meta(ge=0)]]


class EmbeddingRequest(Request, kw_only=True):
    """Token ids belong to a vocabulary, and clients send that of another maker's models: they are refused."""

    ENDPOINT: ClassVar[Endpoint] = Endpoint(
        path="/embeddings", object="list", id_prefix="", chunk_object="", sells=frozenset({"embedding"})
    )

    input: Text | Annotated[list[Text | int | TokenIds], Meta(min_length=1, max_length=INPUTS_LIMIT)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=100_000)] | None = None

    @property
    def prompts(self) -> int:
        return len(self._texts())

    def texts(self, fields: dict[str, Any]) -> Iterator[bytes]:
        yield from (text.encode() for text in self._texts())

    def forget_texts(self) -> None:
        self.input = [""] * self.prompts

    def check(self) -> None:
        if not all(isinstance(text, str) for text in self._texts()):
            raise InvalidRequest(
                "`input` must be text, not token ids, whose vocabulary this model does not share. In LangChain set "
                "`check_embedding_ctx_length=False`.",
                param="input",
            )

    def _texts(self) -> list[Any]:
        return [self.input] if isinstance(self.input, str) else self.input
