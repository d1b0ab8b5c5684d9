"""What the Python clients ask for: tools, and a document of a given form."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel


def _tool(name: str, **properties: str) -> dict[str, Any]:
    """Strict: some helpers insist."""
    parameters = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "strict": True, "parameters": parameters}}


TOOLS = [_tool("weather", city="string", days="integer"), _tool("clock", zone="string")]
RESULT = "It is fine."


class Harbour(BaseModel):
    name: str
    berths: int
    open: bool
    ships: list[str]


def called(calls: Any) -> list[Any]:
    """Name and arguments of OpenAI's tool calls."""
    return [[call.function.name, json.loads(call.function.arguments)] for call in calls]


def spent(usage: Any) -> dict[str, int] | None:
    """OpenAI's usage object in our words."""
    if usage is None:
        return None
    return {
        "input": usage.prompt_tokens,
        "cached": usage.prompt_tokens_details.cached_tokens,
        "output": usage.completion_tokens,
        "reasoning": usage.completion_tokens_details.reasoning_tokens,
    }
