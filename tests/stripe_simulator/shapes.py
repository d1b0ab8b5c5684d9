"""Whether an answer has the shape that the stripe package's own annotations promise to those who read it."""

from __future__ import annotations

import decimal
import importlib
import typing
from typing import Any

import stripe
from stripe._object_classes import OBJECT_CLASSES


def class_of(value: dict[str, Any]) -> type:
    module, name = OBJECT_CLASSES[value["object"]]
    found: type = getattr(importlib.import_module(module), name)
    return found


def faults(value: Any, wanted: Any, place: str) -> list[str]:
    """Where the JSON value is not what the annotation says; empty when it fits."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or wanted is None or isinstance(wanted, typing.TypeVar):
        return []
    if isinstance(wanted, typing.ForwardRef):
        if not isinstance(value, dict) or "object" not in value:
            return [f"{place}: not an object"]
        return object_faults(value, class_of(value), place)
    if origin is typing.Union:
        tries = [faults(value, each, place) for each in arguments if each is not type(None)]
        if value is None:
            return [] if type(None) in arguments else [f"{place}: null"]
        return [] if [] in tries else min(tries, key=len)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{place}: {value!r} is not one of {arguments}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{place}: not a list"]
        return [fault for index, each in enumerate(value) for fault in faults(each, arguments[0], f"{place}[{index}]")]
    if wanted is decimal.Decimal:
        return [] if isinstance(value, str) else [f"{place}: a decimal must be a text"]
    kind = origin or wanted
    if isinstance(kind, type) and issubclass(kind, stripe.StripeObject):
        if not isinstance(value, dict):
            return [f"{place}: not a hash"]
        return [] if "Untyped" in kind.__name__ else object_faults(value, kind, place)
    return [] if type(value) is kind else [f"{place}: {value!r} is not a {kind}"]


def object_faults(value: dict[str, Any], kind: type, place: str) -> list[str]:
    """Keys that the class does not know, keys that it promises and that are missing, and values of another type."""
    known = {name: wanted for name, wanted in kind.__annotations__.items() if not name.startswith("_")}
    known = {name: wanted for name, wanted in known.items() if typing.get_origin(wanted) is not typing.ClassVar}
    found = [f"{place}.{name}: unknown" for name in value if name not in known and name != "object"]
    for name, wanted in known.items():
        if name not in value:
            optional = type(None) in typing.get_args(wanted)
            found += [] if optional else [f"{place}.{name}: missing"]
        else:
            found += faults(value[name], wanted, f"{place}.{name}")
    return found


def of(value: dict[str, Any]) -> list[str]:
    """The faults of a whole object, known by its `object`."""
    return object_faults(value, class_of(value), value["object"])
