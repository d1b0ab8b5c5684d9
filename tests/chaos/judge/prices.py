"""What a call costs, worked out anew from the price table.

Rates are pico-USD per token. The band that the prompt falls in prices the whole call; cached tokens without a rate of
their own cost what input does; the account's contract price replaces the list price.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Tokens(NamedTuple):
    """`cached` are part of `input`."""

    input: int
    cached: int
    output: int


@dataclass(frozen=True, slots=True)
class Version:
    id: int
    model_id: int
    account_id: int | None
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Rate:
    version_id: int
    meter: str
    context_from: int
    pico_per_token: int


class PriceTable:
    def __init__(self, versions: Iterable[Version], rates: Iterable[Rate]) -> None:
        self._versions: dict[tuple[int, int | None], list[Version]] = defaultdict(list)
        for version in versions:
            self._versions[version.model_id, version.account_id].append(version)
        self._bands: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for rate in rates:
            self._bands[rate.version_id][rate.context_from][rate.meter] = rate.pico_per_token

    def in_force(self, model_id: int, account_id: int, moment: datetime) -> int | None:
        """The version that prices a call; None where the model was not for sale."""
        for owner in (account_id, None):
            for version in self._versions.get((model_id, owner), ()):
                if version.starts_at <= moment and (version.ends_at is None or moment < version.ends_at):
                    return version.id
        return None

    def cost(self, version_id: int, tokens: Tokens) -> int:
        bands = self._bands[version_id]
        rates = bands[max(start for start in bands if start <= tokens.input)]
        cached = tokens.cached * rates.get("cached_input", rates["input"])
        return (tokens.input - tokens.cached) * rates["input"] + cached + tokens.output * rates["output"]
