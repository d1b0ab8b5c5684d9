"""The judge of accounts: what moved is what their calls cost, and it was there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.chaos.judge.books import Books
from tests.chaos.planted import (
    ACCOUNT,
    CREDIT,
    START,
    changed,
    on_attempt,
    on_record,
    open_hold,
    sound,
    told,
    verdict_on,
)


def on_wallet(**fields: int) -> Callable[[Books], None]:
    """The wallet has so much more."""

    def change(books: Books) -> None:
        (wallet,) = books.wallets
        more = {name: getattr(wallet, name) + amount for name, amount in fields.items()}
        books.wallets = [dataclasses.replace(wallet, **more)]

    return change


def on_usage_transfer(**fields: Any) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        books.transfers[1] = dataclasses.replace(books.transfers[1], **fields)

    return change


def no_usage_transfer(books: Books) -> None:
    books.transfers.pop()


def on_hour(**fields: int) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        (hour,) = books.hours
        more = {name: getattr(hour, name) + amount for name, amount in fields.items()}
        books.hours = [dataclasses.replace(hour, **more)]

    return change


def on_budget(**fields: Any) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        (budget,) = books.budgets
        books.budgets = [dataclasses.replace(budget, **fields)]

    return change


ROLL_UP = "the roll-up of 2026-03-04 05:00:00+00:00 differs from its 5 records"
CHARGED = 508 + 900 + 420 + 2060
BOOK_FAULTS: dict[str, tuple[str, Callable[[Books], None]]] = {
    "a balance below zero": ("overdraft: the wallet has -1", on_wallet(posted=CHARGED - CREDIT - 1)),
    "a debt": ("overdraft: the wallet has 96112 and owes 5", on_wallet(debt=5)),
    "a balance that is too high": ("wrong: the wallet has 96113, its credits less its charges", on_wallet(posted=1)),
    "a balance that is too low": ("wrong: the wallet has 96111, its credits less its charges", on_wallet(posted=-1)),
    "money held for nothing": ("wrong: the wallet holds 1, its open holds are 0", on_wallet(held=1)),
    "lots that have other sums": ("wrong: the wallet has 96112, its lots 0", lambda books: books.lots.clear()),
    "a debt that lots do not know": ("wrong: the wallet has 96112, its lots 96112, its debt", on_wallet(debt=5)),
    "a budget that spent too little": (
        f"wrong: the budget day of key 69 spent {CHARGED - 1}, its calls cost {CHARGED}", on_budget(spent=CHARGED - 1),
    ),
    "a budget of another day": (
        f"wrong: the budget day of key 69 spent {CHARGED}, its calls cost 0",
        on_budget(starts_at=START.replace(hour=0, minute=0) - timedelta(days=1)),
    ),
    "a budget of another line": (
        f"wrong: the budget day of key 70 spent {CHARGED}, its calls cost 0", on_budget(line_id=70),
    ),
    "a budget that holds what nothing does": (
        "wrong: the budget day of key 69 holds 1, its open holds are 0", on_budget(held=1),
    ),
    "a cap that was spent beyond": (
        f"overdraft: the budget day of key 69 is used beyond its cap of {CHARGED - 1}", on_budget(cap=CHARGED - 1),
    ),
    "a wallet that is gone": ("wrong: it has calls or transfers, but no wallet", lambda books: books.wallets.clear()),
    "a hold that ended in nothing": ("lost: 1 holds ended neither", on_wallet(holds_opened=1)),
    "a hold that ended twice": ("wrong: 1 holds ended twice", on_wallet(holds_opened=-1)),
    "a transfer of too much": (
        f"double: transfer 2 took {CHARGED + 1}, its records are {CHARGED}", on_usage_transfer(amount=CHARGED + 1),
    ),
    "a transfer of too little": (
        f"wrong: transfer 2 took {CHARGED - 1}, its records are {CHARGED}", on_usage_transfer(amount=CHARGED - 1),
    ),
    "a batch that was charged twice": (
        f"double: transfer 3 took {CHARGED}, its records are 0",
        lambda books: books.transfers.append(dataclasses.replace(books.transfers[1], id=3)),
    ),
    "a transfer that is gone": (
        "double: settled, but charged by no transfer of its wallet", no_usage_transfer,
    ),
    "a transfer from another wallet": (
        "double: settled, but charged by no transfer of its wallet", on_usage_transfer(wallet_id=ACCOUNT + 1),
    ),
    "a call rolled up twice": (f"double: {ROLL_UP}", on_hour(calls=1)),
    "a call that was not rolled up": (f"wrong: {ROLL_UP}", on_hour(calls=-1)),
    "a roll-up of other tokens": (f"wrong: {ROLL_UP} in ['output_tokens']", on_hour(output_tokens=1)),
    "a roll-up of another charge": (f"wrong: {ROLL_UP} in ['charge']", on_hour(charge=1)),
    "a roll-up that is gone": ("wrong: no roll-up of 2026-03-04 05:00:00+00:00", lambda books: books.hours.clear()),
}  # fmt: skip


@pytest.mark.parametrize("fault", BOOK_FAULTS)
def test_a_fault_of_the_books_is_found(fault: str) -> None:
    text, change = BOOK_FAULTS[fault]
    world = sound()
    books = world.books()
    change(books)
    assert [line for line in told(verdict_on(world, books)) if text in line]


def test_money_is_there_again_once_a_call_is_settled() -> None:
    """The second call is held out of what the first gave back."""
    world = changed(
        *(on_record(name, held=0, charge=0) for name in ("json", "stream", "hung_up", "unresolved")),
        on_record("json", held=100_000, charge=508, settled_at=START + timedelta(seconds=2)),
        on_record("swept", held=99_000),
    )
    verdict = verdict_on(world)
    assert verdict.overdraft == []
    on_record("json", settled_at=START + timedelta(seconds=4))(world)
    assert verdict_on(world).overdraft


def test_what_was_charged_is_not_there_any_more() -> None:
    """A hold takes all that the settled calls have left, and then one pico-USD more."""
    world = changed(open_hold("free", amount=CREDIT - CHARGED), on_attempt("free", accepted_at=START.timestamp() + 99))
    assert verdict_on(world).overdraft == []
    world.holds.clear()
    open_hold("free", amount=CREDIT - CHARGED + 1)(world)
    assert [fault.text[:32] for fault in verdict_on(world).overdraft] == ["1 more held and charged than cre"]


def test_a_call_that_cost_nothing_needs_no_transfer() -> None:
    assert told(verdict_on(changed(on_record("unresolved", transfer_id=None)))) == []


def test_a_wallet_may_be_empty() -> None:
    world = sound()
    books = world.books()
    books.transfers[0] = dataclasses.replace(books.transfers[0], amount=CHARGED)
    on_wallet(posted=-books.wallets[0].posted)(books)
    books.lots.clear()
    assert not [line for line in told(verdict_on(world, books)) if "the wallet has" in line]


def test_a_debt_is_told_once_where_the_lots_agree_with_it() -> None:
    world = sound()
    books = world.books()
    books.transfers[0] = dataclasses.replace(books.transfers[0], amount=CHARGED - 5)
    on_wallet(posted=-books.wallets[0].posted - 5, debt=15)(books)
    books.lots = [dataclasses.replace(books.lots[0], remaining=10)]
    lines = [line for line in told(verdict_on(world, books)) if "the wallet has" in line]
    assert lines == ["overdraft: the wallet has -5 and owes 15"]


def test_credit_counts_from_its_own_moment() -> None:
    world = sound()
    books = world.books()
    books.transfers[0] = dataclasses.replace(books.transfers[0], created_at=START + timedelta(seconds=2))
    assert verdict_on(world, books).overdraft


def test_taken_back_credit_is_missing_in_the_balance() -> None:
    world = sound()
    books = world.books()
    expiry = dataclasses.replace(
        books.transfers[0], id=3, kind="expiry", debit="wallet", credit="promotions", amount=500
    )
    books.transfers.append(expiry)
    on_wallet(posted=-500)(books)
    books.lots = [dataclasses.replace(books.lots[0], remaining=books.wallets[0].posted)]
    assert told(verdict_on(world, books)) == []
