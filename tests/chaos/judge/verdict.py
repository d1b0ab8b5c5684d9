"""What the judge says: a **Fault** is one broken rule, a **Verdict** all of them and the figures beside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Kind = Literal["lost", "double", "overdraft", "wrong", "open"]


@dataclass(frozen=True, slots=True)
class Fault:
    call_id: UUID | None
    account_id: int | None
    text: str


Finding = tuple[Kind, Fault]


@dataclass(frozen=True)
class Verdict:
    """`lost`: used or paid for, and not accounted for. `double`: charged or counted more than once. `overdraft`: spent
    without being there. `wrong`: any other figure that differs. `open`: not at its end. `charged` is pico-USD.
    """

    calls: int  # Accepted by a backend, admitted, or answered.
    records: int
    late: int
    charged: int
    unresolved: int
    swept: int
    lost: list[Fault]
    double: list[Fault]
    overdraft: list[Fault]
    wrong: list[Fault]
    open: list[Fault]

    @property
    def faults(self) -> dict[Kind, list[Fault]]:
        return {
            "lost": self.lost,
            "double": self.double,
            "overdraft": self.overdraft,
            "wrong": self.wrong,
            "open": self.open,
        }

    @property
    def sound(self) -> bool:
        return not any(self.faults.values())


def by_kind(findings: Iterable[Finding]) -> dict[Kind, list[Fault]]:
    sorted_out: dict[Kind, list[Fault]] = {"lost": [], "double": [], "overdraft": [], "wrong": [], "open": []}
    for kind, fault in findings:
        sorted_out[kind].append(fault)
    return sorted_out
