"""What every URL of /v1 does, and the form of what it answers, for the document that programs read.

Every view has its **Operation** here. What a call answers comes from a backend and is mended as it passes
(`gateway/answers.py`), so its form is written down here and not where it is made; a test holds answers to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from gateway import account_answers, account_views, errors, meanings, views
from gateway.account_answers import Amount, Count
from gateway.errors import GatewayError
from gateway.views import GatewayView


class ErrorDetail(Struct):
    """`code` says what happened, for programs; `param` is the parameter that is at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct):
    """Every refusal has this form, whatever its status; in a stream it is an event of its own."""

    error: ErrorDetail


class PromptDetails(Struct):
    cached_tokens: Count


class CompletionDetails(Struct):
    reasoning_tokens: Count


class CallUsage(Struct):
    """What is charged. `cost` is in USD."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    cost: Amount


class EmbeddingUsage(Struct):
    """What is charged. `cost` is in USD."""

    prompt_tokens: Count
    total_tokens: Count
    cost: Amount


class ChatMessage(Struct):
    """Reasoning, refusals and calls of tools are fields beside these."""

    role: Literal["assistant"]
    content: str | None


class ChatChoice(Struct):
    index: Count
    message: ChatMessage
    finish_reason: str | None


class ChatCompletion(Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CallUsage


class TextChoice(Struct):
    index: Count
    text: str
    finish_reason: str | None


class Completion(Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CallUsage


class Embedding(Struct):
    """`embedding` is a list of numbers or, if asked for, base64 of 32-bit floats."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(Struct):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


@dataclass(frozen=True, slots=True)
class Operation:
    """What one view does. `answer` is the type of its JSON; None stands for an object of any form."""

    id: str
    tag: str
    summary: str
    answer: type[Struct] | None
    refusals: tuple[type[GatewayError], ...] = ()
    query: type[Struct] | None = None


OPERATIONS: dict[type[GatewayView], Operation] = {
    views.ModelListView: Operation("listModels", "Models", "The models that are for sale", views.ModelListAnswer),
    views.ModelView: Operation(
        "retrieveModel", "Models", "One model", views.ModelAnswer, refusals=(errors.ModelNotFound,)
    ),
    views.ChatCompletionsView: Operation(
        "createChatCompletion", "Calls", "The next message of a conversation", ChatCompletion
    ),
    views.CompletionsView: Operation("createCompletion", "Calls", "How a text goes on", Completion),
    views.EmbeddingsView: Operation("createEmbedding", "Calls", "Vectors of texts", EmbeddingList),
    account_views.GenerationView: Operation(
        "retrieveGeneration",
        "Account",
        "One call: its tokens, its cost, how it ended",
        account_answers.GenerationAnswer,
        refusals=(errors.GenerationNotFound,),
    ),
    account_views.BalanceView: Operation(
        "retrieveBalance", "Account", "What can be spent", account_answers.BalanceAnswer
    ),
    account_views.KeyView: Operation(
        "retrieveKey",
        "Account",
        "The key that asks: its limits, its spend cap, what is left",
        account_answers.KeyAnswer,
    ),
    account_views.UsageView: Operation(
        "listUsage",
        "Account",
        "What was used and spent, by day, model and key",
        account_answers.UsageAnswer,
        query=account_answers.UsageQuery,
    ),
}

# What parameters mean; their types and bounds come with the type.
MEANINGS = meanings.OF_PARAMETERS | {
    "start": "The first day. By default 29 days before the last.",
    "end": "The last day. By default, and at most, today.",
    "group_by": "One row for each; none for one sum of all.",
    "api_key": "Only of the key of this id.",
    "limit": "The most rows.",
    "page": "The `next_page` of the page before.",
    "model_id": "The id of a model; a slash in it may be written as it is, or as %2F.",
    "generation_id": "The id of an answer, its x-request-id, or the bare UUID.",
}
