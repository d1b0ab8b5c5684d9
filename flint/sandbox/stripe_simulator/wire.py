"""Stripe's wire format: form-encoded parameters with brackets in, errors as Stripe words them out.

`Params` hands the parameters out one by one and knows which were never asked for: Stripe refuses those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from flint.sandbox.stripe_simulator.store import Json

DIGITS_MAX = 12


class StripeError(Exception):
    """A refusal, as Stripe answers it."""

    def __init__(self, status: int, type_: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.fields = {"type": type_, "message": message} | {
            name: value for name, value in fields.items() if value is not None
        }

    @property
    def body(self) -> Json:
        return {"error": self.fields}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    return StripeError(400, "invalid_request_error", message, param=param, code=code)


def missing(kind: str, id_: str, *, param: str = "id", status: int = 404) -> StripeError:
    message = f"No such {kind}: '{id_}'"
    return StripeError(status, "invalid_request_error", message, param=param, code="resource_missing")


def nest(pairs: Iterable[tuple[str, str]]) -> Json:
    """`a[b][0][c]=x` as nested dictionaries. Raises StripeError where the names contradict each other."""
    tree: Json = {}
    for name, value in pairs:
        first, _, rest = name.partition("[")
        path = [first, *re.findall(r"([^\[\]]*)\]", "".join(rest))] if rest else [name]
        place = tree
        for step in path[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise invalid(f"Invalid parameter: {name}", param=name)
        last = path[-1] or str(len(place))
        place[last] = value
    return tree


class Params:
    """The parameters of one request, or of one nested hash of it (`path` is its name)."""

    def __init__(self, values: Json, path: str = "") -> None:
        self.values = values
        self.path = path
        self.asked: set[str] = set()
        self.children: list[Params] = []

    def name(self, key: str) -> str:
        return f"{self.path}[{key}]" if self.path else key

    def has(self, key: str) -> bool:
        return key in self.values

    def _take(self, key: str) -> Any:
        self.asked.add(key)
        return self.values.get(key)

    def text(self, key: str, default: str | None = None) -> str | None:
        """An empty text unsets a value, as at Stripe."""
        value = self._take(key)
        if isinstance(value, dict):
            raise invalid(f"Invalid string: {value}", param=self.name(key))
        return default if value is None else value or None

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            name = self.name(key)
            raise invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
        return value

    def choice(self, key: str, choices: Iterable[str], default: str | None = None) -> str | None:
        value = self.text(key, default)
        if value is not None and value not in set(choices):
            raise invalid(f"Invalid {self.name(key)}: must be one of {', '.join(choices)}", param=self.name(key))
        return value

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self.text(key)
        if value is None:
            return default
        if not re.fullmatch(rf"-?[0-9]{{1,{DIGITS_MAX}}}", value):
            raise invalid(f"Invalid integer: {value}", param=self.name(key), code="parameter_invalid_integer")
        return int(value)

    def amount(self, key: str) -> int:
        """A required amount in cents, at least one."""
        self.required(key)
        value = self.integer(key)
        assert value is not None  # noqa: S101  Told to the type checker.
        if value < 1:
            message = "This value must be greater than or equal to 1."
            raise invalid(message, param=self.name(key), code="parameter_invalid_integer")
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.text(key)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise invalid(f"Invalid boolean: {value}", param=self.name(key))
        return value == "true"

    def hash(self, key: str) -> Params:
        value = self._take(key)
        if value is not None and value != "" and not isinstance(value, dict):
            raise invalid("Invalid object", param=self.name(key))
        child = Params(value or {}, self.name(key))
        self.children.append(child)
        return child

    def items(self, key: str) -> list[Params]:
        """The hashes of an array, in order."""
        array = self.hash(key)
        return [array.hash(index) for index in sorted(array.values, key=_index)]

    def texts(self, key: str) -> list[str]:
        array = self.hash(key)
        return [array.required(index) for index in sorted(array.values, key=_index)]

    def metadata(self, before: Json | None = None) -> Json:
        """The metadata with these changes; an empty text removes a key."""
        child = self.hash("metadata")
        changes = {key: child.text(key) for key in child.values}
        merged = (before or {}) | changes
        return {key: value for key, value in merged.items() if value is not None}

    def ignore(self, *keys: str) -> None:
        """Accept these parameters of Stripe without doing anything about them."""
        self.asked.update(keys)

    def insist_on_nothing_else(self) -> None:
        """Raises StripeError when there is a parameter that nobody asked for."""
        for key in self.values:
            if key not in self.asked:
                name = self.name(key)
                raise invalid(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
        for child in self.children:
            child.insist_on_nothing_else()


def _index(key: str) -> int:
    return int(key) if key.isdecimal() else 0
