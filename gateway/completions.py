"""POST /v1/completions: text goes on where a prompt ends. For base models; its defaults are OpenAI's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from gateway.errors import InvalidRequest
from gateway.requests import Endpoint, Sampled

CHOICES_LIMIT = 64  # Of all prompts together. Keeps the largest hold below what a BIGINT holds.

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Prompt = str | Annotated[list[TokenId], Meta(min_length=1)]


class CompletionRequest(Sampled, kw_only=True):
    """`prompt` is a text, several texts, a list of token ids, or several of those."""

    ENDPOINT: ClassVar[Endpoint] = Endpoint(
        path="/completions",
        object="text_completion",
        id_prefix="cmpl-",
        chunk_object="text_completion",
        sells=frozenset({"completion"}),
    )
    DEFAULTS: ClassVar[dict[str, Any]] = {"max_tokens": 16}

    prompt: str | Annotated[list[TokenId | Prompt], Meta(min_length=1)]
    best_of: Annotated[int, Meta(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> int:
        return len(self._each())

    @property
    def token_ids(self) -> int:
        return sum(len(prompt) for prompt in self._each() if isinstance(prompt, list))

    def texts(self, fields: dict[str, Any]) -> Iterator[bytes]:
        yield from (text.encode() for text in (*self._each(), self.suffix) if isinstance(text, str))

    def forget_texts(self) -> None:
        self.prompt = [""] * self.prompts
        self.suffix = None

    def check(self) -> None:
        if len({type(prompt) for prompt in self.prompt}) > 1:
            raise InvalidRequest("`prompt` holds texts, token ids or lists of token ids, of one kind.", param="prompt")
        if self.choices > CHOICES_LIMIT:
            raise InvalidRequest(f"At most {CHOICES_LIMIT} answers: the prompts times `n`.", param="prompt")
        if self.echo:
            raise InvalidRequest("`echo` is not supported: put the prompt before the answer yourself.", param="echo")
        if (self.best_of or 1) > (self.n or 1):
            raise InvalidRequest("`best_of` above `n` is not supported: ask for `n` and choose.", param="best_of")

    def _each(self) -> list[Any]:
        """Every prompt, a text or its token ids. A flat list of numbers is one prompt."""
        if isinstance(self.prompt, str) or type(self.prompt[0]) is int:
            return [self.prompt]
        return self.prompt
