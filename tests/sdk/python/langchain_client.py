"""LangChain's chat model for servers that speak as OpenAI's."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.sdk.python import loop, things
from tests.sdk.python.loop import PIECES_BEFORE_LEAVING, Errand, Note


def model(errand: Errand) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=errand.base_url,
        api_key=errand.key,
        model=errand.model,
        max_retries=errand.retries,
        stream_usage=True,
        **errand.options,
    )


def chat(errand: Errand) -> Note:
    return _noted(model(errand).invoke(errand.text))


def stream(errand: Errand) -> Note:
    whole = None
    for piece in model(errand).stream(errand.text):
        whole = piece if whole is None else whole + piece
    return _noted(whole)


def _noted(message: Any) -> Note:
    usage = message.usage_metadata
    return {
        "id": message.response_metadata.get("id"),  # Not told of a stream.
        "text": message.content,
        "finish": message.response_metadata["finish_reason"],
        "usage": {
            "input": usage["input_tokens"],
            "cached": usage["input_token_details"]["cache_read"],
            "output": usage["output_tokens"],
            "reasoning": usage["output_token_details"]["reasoning"],
        },
    }


def tools(errand: Errand) -> Note:
    choice = errand.options.pop("tool_choice", None)
    asking = model(errand).bind_tools(things.TOOLS, **({"tool_choice": choice} if choice else {}))
    return _answer_tools(errand, asking.invoke(errand.text))


def tools_stream(errand: Errand) -> Note:
    choice = errand.options.pop("tool_choice", None)
    asking = model(errand).bind_tools(things.TOOLS, **({"tool_choice": choice} if choice else {}))
    whole: Any = None
    for piece in asking.stream(errand.text):
        whole = piece if whole is None else whole + piece
    return _answer_tools(errand, whole)


def _answer_tools(errand: Errand, asked: Any) -> Note:
    results = [ToolMessage(things.RESULT, tool_call_id=call["id"]) for call in asked.tool_calls]
    answer = model(errand).bind_tools(things.TOOLS).invoke([HumanMessage(errand.text), asked, *results])
    return {
        "calls": [[call["name"], call["args"]] for call in asked.tool_calls],
        "finish": asked.response_metadata["finish_reason"],
        "text": answer.content,
    }


def document(errand: Errand) -> Note:
    harbour: Any = model(errand).with_structured_output(things.Harbour).invoke(errand.text)
    return {"document": harbour.model_dump()}


def leave(errand: Errand) -> Note:
    pieces: Any = model(errand).stream(errand.text)
    texts: list[str] = []
    for piece in pieces:
        texts += [piece.content] if piece.content else []
        if len(texts) == PIECES_BEFORE_LEAVING:
            break
    pieces.close()
    return {"text": "".join(texts)}


def embed(errand: Errand) -> Note:
    # Otherwise it sends the token ids of OpenAI's own models.
    embeddings = OpenAIEmbeddings(
        base_url=errand.base_url, api_key=errand.key, model=errand.model, check_embedding_ctx_length=False
    )
    return {"vectors": embeddings.embed_documents([errand.text, errand.text])}


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
