"""LiteLLM as a client: one function for every provider, of which we are one that speaks as OpenAI."""

from __future__ import annotations

from typing import Any

import litellm

from tests.sdk.python import loop, things
from tests.sdk.python.loop import PIECES_BEFORE_LEAVING, Errand, Note


def completion(errand: Errand, **more: Any) -> Any:
    request = {"messages": errand.messages} | errand.options | more
    return litellm.completion(
        model=f"openai/{errand.model}",
        api_base=errand.base_url,
        api_key=errand.key,
        max_retries=errand.retries,
        **request,
    )


def chat(errand: Errand) -> Note:
    answer = completion(errand)
    choice = answer.choices[0]
    return {
        "id": answer.id,
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "usage": things.spent(answer.usage),
    }


def stream(errand: Errand) -> Note:
    pieces = list(completion(errand, stream=True, stream_options={"include_usage": True}))
    choices = [choice for piece in pieces for choice in piece.choices]
    return {
        "id": pieces[0].id,
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": next(choice.finish_reason for choice in reversed(choices) if choice.finish_reason),
        "usage": things.spent(next(piece.usage for piece in reversed(pieces) if getattr(piece, "usage", None))),
    }


def tools(errand: Errand) -> Note:
    return _answer_tools(errand, completion(errand, tools=things.TOOLS))


def tools_stream(errand: Errand) -> Note:
    pieces = list(completion(errand, tools=things.TOOLS, stream=True))
    return _answer_tools(errand, litellm.stream_chunk_builder(pieces))


def _answer_tools(errand: Errand, asked: Any) -> Note:
    message = asked.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": things.RESULT} for call in message.tool_calls]
    messages = [*errand.messages, message.model_dump(), *results]
    errand.options.pop("tool_choice", None)
    answer = completion(errand, messages=messages, tools=things.TOOLS)
    return {
        "calls": things.called(message.tool_calls),
        "finish": asked.choices[0].finish_reason,
        "text": answer.choices[0].message.content,
    }


def document(errand: Errand) -> Note:
    answer = completion(errand, response_format=things.Harbour)
    return {"document": things.Harbour.model_validate_json(answer.choices[0].message.content).model_dump()}


def leave(errand: Errand) -> Note:
    pieces = completion(errand, stream=True)
    texts: list[str] = []
    for piece in pieces:
        texts += [choice.delta.content for choice in piece.choices if choice.delta.content]
        if len(texts) == PIECES_BEFORE_LEAVING:
            break
    pieces.completion_stream.close()
    return {"text": "".join(texts)}


def embed(errand: Errand) -> Note:
    answer = litellm.embedding(
        model=f"openai/{errand.model}",
        input=[errand.text, errand.text],
        api_base=errand.base_url,
        api_key=errand.key,
        **errand.options,
    )
    return {"vectors": [item["embedding"] for item in answer.data], "usage": {"input": answer.usage.prompt_tokens}}


OPERATIONS = {
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "tools_stream": tools_stream,
    "document": document,
    "leave": leave,
    "embed": embed,
}

if __name__ == "__main__":
    loop.serve(OPERATIONS)
