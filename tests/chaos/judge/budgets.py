"""The rules for keys with a spend cap: their budgets are what the judge makes of their calls, and within the cap.

Caps must not be lowered, nor set while calls run, if they are to be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from tests.chaos.judge.books import Books
from tests.chaos.judge.cases import Priced
from tests.chaos.judge.verdict import Fault, Finding

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def faults(books: Books, settled: Iterable[Priced]) -> Iterator[Finding]:
    spent: Counter[tuple[int, str, datetime]] = Counter()
    for priced in settled:
        line = books.lines.get(priced.record.api_key_id, priced.record.api_key_id)
        for period, began in _periods_of(priced.record.admitted_at):
            spent[line, period, began] += priced.charge
    held: Counter[int | None] = Counter()
    for hold in books.holds:
        held[hold.budget_id] += hold.amount
    for budget in books.budgets:
        charged = spent[budget.line_id, budget.period, budget.starts_at]
        of = f"the budget {budget.period} of key {budget.line_id}"
        if budget.spent != charged:
            yield "wrong", Fault(None, budget.account_id, f"{of} spent {budget.spent}, its calls cost {charged}")
        if budget.held != held[budget.id]:
            text = f"{of} holds {budget.held}, its open holds are {held[budget.id]}"
            yield "wrong", Fault(None, budget.account_id, text)
        if budget.cap is not None and charged + held[budget.id] > budget.cap:
            yield "overdraft", Fault(None, budget.account_id, f"{of} is used beyond its cap of {budget.cap}")


def _periods_of(moment: datetime) -> Iterator[tuple[str, datetime]]:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    yield "day", day
    yield "month", day.replace(day=1)
    yield "total", _EPOCH
