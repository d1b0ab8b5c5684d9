"""What operators may say of a backend's dialect.

It may not change what a call costs at most: the model, the prompt and the bounds of the answer are the call's own,
under whichever name, and customers must not reach by a new name what is withheld from them under its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.models import SAID_BY_THE_CALL
from gateway.requests import ESSENTIAL, TEMPLATE_ARGUMENTS, TEMPLATE_VARIABLES, WITHHELD

LENGTH = 10_000  # Of one JSON object: every process reads it every second.
DEPTH_LIMIT = 20
# The names that servers have for what bounds an answer. Only the bound itself may go by them.
BOUNDS = {
    "max_tokens": frozenset({"max_completion_tokens", "max_new_tokens", "n_predict", "num_predict"}),
    "n": frozenset({"n_cmpl", "num_return_sequences"}),
}
_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")


class InvalidDialect(Exception):
    """What was said cannot be followed, or would leave a call without its bound. The message says why."""


def json_object(text: str) -> dict[str, Any]:
    """Nothing is an empty one. Raises InvalidDialect."""
    if not text.strip():
        return {}
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict) or "\\u0000" in text:
        raise InvalidDialect('Write a JSON object, such as {"name": "value"}.')
    if _depth(decoded) > DEPTH_LIMIT:
        raise InvalidDialect(f"At most {DEPTH_LIMIT} objects and lists in each other.")
    return decoded


def check_renames(renamed: Mapping[str, Any]) -> None:
    """Raises InvalidDialect."""
    for name, theirs in renamed.items():
        if not _NAME.fullmatch(name) or not isinstance(theirs, str) or not _NAME.fullmatch(theirs):
            raise InvalidDialect('Names stand on both sides: {"max_tokens": "max_completion_tokens"}.')
        if name == "max_completion_tokens":
            raise InvalidDialect("Rename max_tokens: customers may say max_completion_tokens, and max_tokens goes out.")
        if name in WITHHELD or (name in ESSENTIAL | {"stream_options"} and name not in BOUNDS):
            raise InvalidDialect(f"{name} is not renamed: every backend has it, or none gets it from customers.")
        if theirs in {*SAID_BY_THE_CALL, *WITHHELD} - BOUNDS.get(name, frozenset()):
            raise InvalidDialect(f"{name} cannot become {theirs}: it would change what a call costs or may do.")
    if len(set(renamed.values())) < len(renamed):
        raise InvalidDialect("Two parameters would have the same name.")


def check_additions(added: Mapping[str, Any], *, renamed: Mapping[str, Any]) -> None:
    """Raises InvalidDialect."""
    for name, value in added.items():
        if not _NAME.fullmatch(name):
            raise InvalidDialect("A parameter's name has letters, digits and underscores, such as enable_thinking.")
        if name in SAID_BY_THE_CALL:
            raise InvalidDialect(f"{name} is each call's own: it says what is asked, and what that may cost.")
        if name in renamed.values():
            raise InvalidDialect(f"{name} is what another parameter is renamed to.")
        if value is None:
            raise InvalidDialect(f"{name} is null, which says nothing. To keep it from the backend, deny it.")
        if name in TEMPLATE_VARIABLES and (not isinstance(value, dict) or TEMPLATE_ARGUMENTS & value.keys()):
            raise InvalidDialect(f"{name} holds variables of the template, such as enable_thinking, and nothing else.")


def _depth(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case list():
            return 1 + max(map(_depth, value), default=0)
        case _:
            return 0
