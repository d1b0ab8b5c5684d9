"""The openai package with its asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from openai import AsyncOpenAI

from tests.sdk.python import loop, things
from tests.sdk.python.loop import PIECES_BEFORE_LEAVING, Errand, Note


async def chat(openai: AsyncOpenAI, errand: Errand) -> Note:
    answer = await openai.chat.completions.create(model=errand.model, messages=errand.messages, **errand.options)
    choice = answer.choices[0]
    return {
        "id": answer.id,
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "usage": things.spent(answer.usage),
        "request_id": answer._request_id,
    }


async def stream(openai: AsyncOpenAI, errand: Errand) -> Note:
    opened = await openai.chat.completions.create(
        model=errand.model,
        messages=errand.messages,
        stream=True,
        stream_options={"include_usage": True},
        **errand.options,
    )
    events = [event async for event in opened]
    choices = [choice for event in events for choice in event.choices]
    return {
        "id": events[0].id,
        "text": "".join(choice.delta.content or "" for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": things.spent(events[-1].usage),
    }


async def tools(openai: AsyncOpenAI, errand: Errand) -> Note:
    offered: Any = things.TOOLS
    asked = await openai.chat.completions.create(
        model=errand.model, messages=errand.messages, tools=offered, **errand.options
    )
    return await _answer_tools(openai, errand, asked)


async def tools_stream(openai: AsyncOpenAI, errand: Errand) -> Note:
    """With the helper that puts fragments together, and is strict about them."""
    offered: Any = things.TOOLS
    async with openai.chat.completions.stream(
        model=errand.model, messages=errand.messages, tools=offered, **errand.options
    ) as events:
        asked = await events.get_final_completion()
    return await _answer_tools(openai, errand, asked)


async def _answer_tools(openai: AsyncOpenAI, errand: Errand, asked: Any) -> Note:
    message = asked.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": things.RESULT} for call in message.tool_calls]
    messages: Any = [*errand.messages, message, *results]
    offered: Any = things.TOOLS
    answer = await openai.chat.completions.create(model=errand.model, messages=messages, tools=offered)
    return {
        "calls": things.called(message.tool_calls),
        "finish": asked.choices[0].finish_reason,
        "text": answer.choices[0].message.content,
    }


async def document(openai: AsyncOpenAI, errand: Errand) -> Note:
    answer = await openai.chat.completions.parse(
        model=errand.model, messages=errand.messages, response_format=things.Harbour
    )
    harbour = answer.choices[0].message.parsed
    return {"document": harbour and harbour.model_dump()}


async def leave(openai: AsyncOpenAI, errand: Errand) -> Note:
    events = await openai.chat.completions.create(model=errand.model, messages=errand.messages, stream=True)
    texts: list[str] = []
    async for event in events:
        texts += [choice.delta.content for choice in event.choices if choice.delta.content]
        if len(texts) == PIECES_BEFORE_LEAVING:
            break
    await events.close()
    return {"text": "".join(texts)}


async def models(openai: AsyncOpenAI, errand: Errand) -> Note:
    listed = [model.id async for model in openai.models.list()]
    return {"models": listed, "one": (await openai.models.retrieve(errand.model)).id}


async def embed(openai: AsyncOpenAI, errand: Errand) -> Note:
    """In base64 on the wire, which nobody asked for."""
    answer = await openai.embeddings.create(model=errand.model, input=[errand.text, errand.text], **errand.options)
    return {"vectors": [item.embedding for item in answer.data], "usage": {"input": answer.usage.prompt_tokens}}


async def complete(openai: AsyncOpenAI, errand: Errand) -> Note:
    answer = await openai.completions.create(model=errand.model, prompt=errand.text, **errand.options)
    choice = answer.choices[0]
    return {"text": choice.text, "finish": choice.finish_reason, "usage": things.spent(answer.usage)}


async def complete_stream(openai: AsyncOpenAI, errand: Errand) -> Note:
    asked: Any = {"model": errand.model, "prompt": errand.text} | errand.options
    opened: Any = await openai.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    events = [event async for event in opened]
    choices = [choice for event in events for choice in event.choices]
    return {
        "text": "".join(choice.text for choice in choices),
        "finish": choices[-1].finish_reason,
        "usage": things.spent(events[-1].usage),
    }


def at_once(operation: Callable[[AsyncOpenAI, Errand], Awaitable[Note]]) -> Callable[[Errand], Note]:
    async def with_client(errand: Errand) -> Note:
        async with AsyncOpenAI(base_url=errand.base_url, api_key=errand.key, max_retries=errand.retries) as openai:
            return await operation(openai, errand)

    return lambda errand: asyncio.run(with_client(errand))


OPERATIONS = {
    "chat": at_once(chat),
    "stream": at_once(stream),
    "tools": at_once(tools),
    "tools_stream": at_once(tools_stream),
    "document": at_once(document),
    "leave": at_once(leave),
    "models": at_once(models),
    "embed": at_once(embed),
    "complete": at_once(complete),
    "complete_stream": at_once(complete_stream),
}

if __name__ == "__main__":
    loop.serve(OPERATIONS)
