"""The openai package, as most customers use it."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.sdk.python import loop, things
from tests.sdk.python.loop import PIECES_BEFORE_LEAVING, Errand, Note


def client(errand: Errand) -> OpenAI:
    return OpenAI(base_url=errand.base_url, api_key=errand.key, max_retries=errand.retries)


def chat(errand: Errand) -> Note:
    with client(errand) as openai:
        answer = openai.chat.completions.create(model=errand.model, messages=errand.messages, **errand.options)
    choice = answer.choices[0]
    return {
        "id": answer.id,
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "usage": things.spent(answer.usage),
        "request_id": answer._request_id,
    }


def stream(errand: Errand) -> Note:
    with client(errand) as openai:
        events = list(
            openai.chat.completions.create(
                model=errand.model,
                messages=errand.messages,
                stream=True,
                stream_options={"include_usage": True},
                **errand.options,
            )
        )
    choices = [choice for event in events for choice in event.choices]
    return {
        "id": events[0].id,
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": things.spent(events[-1].usage),
    }


def tools(errand: Errand) -> Note:
    offered: Any = things.TOOLS
    with client(errand) as openai:
        asked = openai.chat.completions.create(
            model=errand.model, messages=errand.messages, tools=offered, **errand.options
        )
        return _answer_tools(openai, errand, asked)


def tools_stream(errand: Errand) -> Note:
    """With the helper that puts fragments together, and is strict about them."""
    offered: Any = things.TOOLS
    with client(errand) as openai:
        with openai.chat.completions.stream(
            model=errand.model, messages=errand.messages, tools=offered, **errand.options
        ) as events:
            asked = events.get_final_completion()
        return _answer_tools(openai, errand, asked)


def _answer_tools(openai: OpenAI, errand: Errand, asked: Any) -> Note:
    message = asked.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": things.RESULT} for call in message.tool_calls]
    messages: Any = [*errand.messages, message, *results]
    offered: Any = things.TOOLS
    answer = openai.chat.completions.create(model=errand.model, messages=messages, tools=offered)
    return {
        "calls": things.called(message.tool_calls),
        "finish": asked.choices[0].finish_reason,
        "text": answer.choices[0].message.content,
    }


def document(errand: Errand) -> Note:
    with client(errand) as openai:
        answer = openai.chat.completions.parse(
            model=errand.model, messages=errand.messages, response_format=things.Harbour
        )
    harbour = answer.choices[0].message.parsed
    return {"document": harbour and harbour.model_dump()}


def leave(errand: Errand) -> Note:
    with client(errand) as openai:
        events = openai.chat.completions.create(model=errand.model, messages=errand.messages, stream=True)
        texts: list[str] = []
        for event in events:
            texts += [choice.delta.content for choice in event.choices if choice.delta.content]
            if len(texts) == PIECES_BEFORE_LEAVING:
                break
        events.close()
        return {"text": "".join(texts)}


def models(errand: Errand) -> Note:
    with client(errand) as openai:
        return {"models": [model.id for model in openai.models.list()], "one": openai.models.retrieve(errand.model).id}


def embed(errand: Errand) -> Note:
    """In base64 on the wire, which nobody asked for."""
    with client(errand) as openai:
        answer = openai.embeddings.create(model=errand.model, input=[errand.text, errand.text], **errand.options)
    return {"vectors": [item.embedding for item in answer.data], "usage": {"input": answer.usage.prompt_tokens}}


def complete(errand: Errand) -> Note:
    with client(errand) as openai:
        answer = openai.completions.create(model=errand.model, prompt=errand.text, **errand.options)
    choice = answer.choices[0]
    return {"text": choice.text, "finish": choice.finish_reason, "usage": things.spent(answer.usage)}


def complete_stream(errand: Errand) -> Note:
    with client(errand) as openai:
        asked: Any = {"model": errand.model, "prompt": errand.text} | errand.options
        events: Any = list(openai.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    choices = [choice for event in events for choice in event.choices]
    return {
        "text": "".join(choice.text for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": things.spent(events[-1].usage),
    }


OPERATIONS = {
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "tools_stream": tools_stream,
    "document": document,
    "leave": leave,
    "models": models,
    "embed": embed,
    "complete": complete,
    "complete_stream": complete_stream,
}

if __name__ == "__main__":
    loop.serve(OPERATIONS)
