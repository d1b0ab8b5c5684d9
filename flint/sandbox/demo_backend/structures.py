"""Structures: which tools an answer calls, and JSON that fits a schema.

Tools are called as a real server calls them: when `tool_choice` asks for it, or when the model wants to, which here a
switch decides. The results of tools are answered with a text.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from flint.sandbox.demo_backend.prompts import Prompt, ToolChoice

DEPTH_MAX = 16  # A schema that contains itself ends here.
ITEMS = 2
NUMBER, NUMBER_MAX = 7, 2**53
NO_PARAMETERS = {"type": "object"}

_SCALARS: dict[str, Any] = {"boolean": True, "null": None}


def tool_calls(prompt: Prompt, *, topic: str, wanted: int | None) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of each call that takes the place of a text; none for an ordinary answer.

    `wanted` calls are made, one by default, unless the request says that they must not be parallel.
    """
    choice = prompt.request.tool_choice
    functions = prompt.functions
    if isinstance(choice, ToolChoice):
        functions = [function for function in functions if function.name == choice.function.name]
    elif choice != "required" and (choice == "none" or not wanted or prompt.messages[-1].role == "tool"):
        return []
    count = (wanted or 1) if prompt.request.parallel_tool_calls is not False else 1
    return [
        (function.name, _json(fitting(function.parameters or NO_PARAMETERS, topic=topic)))
        for function in itertools.islice(itertools.cycle(functions), count)
    ]


def document(prompt: Prompt, *, topic: str) -> str | None:
    """The JSON that `response_format` asks for, if it asks for any."""
    wanted = prompt.request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return _json({"topic": topic, "source": "demo backend"})
    return _json(fitting(wanted.json_schema.schema, topic=topic))


def fitting(schema: dict[str, Any], *, topic: str) -> Any:
    """A value that fits a simple schema: types, properties, items, enums, bounds, alternatives and references."""
    return _value(schema, schema, topic, DEPTH_MAX)


def _value(schema: Any, root: dict[str, Any], topic: str, depth: int) -> Any:
    schema = _resolved(schema, root)
    if depth == 0 or not schema:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: _value(part, root, topic, depth - 1) for name, part in properties.items()}
    if kind == "array":
        count = max(schema.get("minItems", 0), min(ITEMS, schema.get("maxItems", ITEMS))) if depth > 1 else 0
        return [_value(schema.get("items"), root, topic, depth - 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return min(max(NUMBER, schema.get("minimum", NUMBER)), schema.get("maximum", NUMBER_MAX))
    if kind == "string":
        return topic.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
    return _SCALARS.get(kind)


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """What a reference points to, and the first alternative that is not null."""
    for _ in range(DEPTH_MAX):
        if not isinstance(schema, dict):
            return {}
        alternatives = next((schema[name] for name in ("anyOf", "oneOf", "allOf") if schema.get(name)), None)
        if alternatives is not None:
            schema = next((part for part in alternatives if part != {"type": "null"}), None)
        elif "$ref" in schema:
            schema = _referred(str(schema["$ref"]), root)
        else:
            return schema
    return {}


def _referred(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for name in reference.removeprefix("#").split("/")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
