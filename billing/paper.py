"""A document for the customer's bookkeeping: what it says, whether it is shown as a page or sent as a PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """The last `numbers` columns are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int

    @property
    def words(self) -> int:
        return len(self.header) - self.numbers

    @property
    def labelled_rows(self) -> list[list[tuple[str, str]]]:
        """Each cell behind the head of its column, for screens that are too narrow for columns."""
        return [list(zip(self.header, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Paper:
    """All amounts are exact text already."""

    title: str
    number: str
    seller: Sequence[str]
    buyer: Sequence[str]
    facts: Sequence[tuple[str, str]]
    table: Table
    totals: Sequence[tuple[str, str]]
    notes: Sequence[str]
    watermark: str
