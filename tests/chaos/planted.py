"""A small world of calls as facts, sound until a test plants a fault in it.

Its product believes its records: wallet, transfers, lots, roll-ups and counts follow from them, right or wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from tests.chaos.judge import Verdict, decide
from tests.chaos.judge.books import Books, Budget, Hold, Hour, LateRecord, Lot, Record, Release, Transfer, Wallet
from tests.chaos.judge.evidence import Attempt, Client
from tests.chaos.judge.prices import PriceTable, Rate, Version

Fact = TypeVar("Fact", Record, Attempt, Client)

START = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
ACCOUNT, KEY, MODEL, PRICE, LATER_PRICE = 7, 70, 1, 11, 12
INPUT, CACHED, OUTPUT = 4, 1, 10  # Pico-USD per token.
LINE = 69  # The key that KEY replaced.
MIDNIGHT = START.replace(hour=0, minute=0)
CREDIT = 100_000
BLIND_SECONDS = 3.5
PROMPT, MOST_OUTPUT = 100, 1000
HELD = PROMPT * INPUT + MOST_OUTPUT * OUTPUT + 40  # The bound of the prompt was a bit more.

# The calls: one a second, in this order.
CALLS = ("json", "stream", "hung_up", "swept", "unresolved", "free")
RATES = {"input": INPUT, "cached_input": CACHED, "output": OUTPUT}
PRICES = PriceTable(
    [
        Version(PRICE, MODEL, None, START - timedelta(days=9), START + timedelta(days=9)),
        Version(LATER_PRICE, MODEL, None, START + timedelta(days=9), None),
    ],
    [Rate(version, meter, 0, rate) for version in (PRICE, LATER_PRICE) for meter, rate in RATES.items()],
)


@dataclass
class World:
    records: list[Record] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    late: list[LateRecord] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    prices: PriceTable = PRICES

    def books(self) -> Books:
        settled = [record for record in self.records if record.settled_at is not None]
        charged = sum(record.charge for record in settled)
        held = sum(hold.amount for hold in self.holds)
        released = sum(release.calls for release in self.releases if release.account_id == ACCOUNT)
        return Books(
            prices=self.prices,
            context_tokens={MODEL: 100_000},
            records=list(self.records),
            holds=list(self.holds),
            late=list(self.late),
            wallets=[Wallet(ACCOUNT, CREDIT - charged, held, 0, len(settled) + len(self.holds) + released)],
            transfers=[
                Transfer(1, ACCOUNT, "adjustment", "adjustments", "wallet", CREDIT, START - timedelta(hours=1)),
                Transfer(2, ACCOUNT, "usage", "wallet", "usage_revenue", charged, START + timedelta(seconds=60)),
            ],
            lots=[Lot(ACCOUNT, CREDIT - charged)],
            hours=[_hour(settled)],
            releases=list(self.releases),
            budgets=[Budget(1, ACCOUNT, LINE, "day", MIDNIGHT, charged, held, 2 * CREDIT)],
            lines={KEY: LINE},
        )


Change = Callable[[World], None]


def sound() -> World:
    """A JSON call, a stream, one that was hung up, two of processes that died, and one that failed free."""
    world = World(releases=[Release(ACCOUNT, "model_unavailable", 1)])
    world.records = [
        record("json", (100, 64, 30)),
        record("stream", (100, 0, 50)),
        record("hung_up", (90, 0, 6), outcome="client_closed", source="estimated"),
        record("swept", (90, 0, 170), outcome="swept", source="checkpoint"),
        record("unresolved", (0, 0, 0), outcome="unresolved", source="none"),
    ]
    world.attempts = [
        attempt("json", 30, stream=False, cached_tokens=64),
        attempt("stream", 50),
        attempt("hung_up", 8, end="client_gone"),
        attempt("swept", 200, end="client_gone", seconds=10.0),
        attempt("unresolved", 0, stream=False, end="client_gone"),
        attempt("free", 0, end="cut"),
    ]
    world.clients = [
        client("json", 30, usage=usage(100, 64, 30)),
        client("stream", 50, usage=usage(100, 0, 50)),
        client("hung_up", 5, end="hung_up"),
        client("swept", 198, end="cut", seconds=10.0),
        client("free", 0, end="refused", status=503, code="model_unavailable", retry_after="2", first_at=None),
    ]
    return world


def changed(*changes: Change) -> World:
    world = sound()
    for change in changes:
        change(world)
    return world


def verdict_on(world: World, books: Books | None = None, *, whole: bool = True) -> Verdict:
    books = books or world.books()
    return decide(books, world.attempts, world.clients, whole=whole, blind_seconds=BLIND_SECONDS)


def told(verdict: Verdict) -> list[str]:
    """kind: text, for each fault."""
    return [f"{kind}: {fault.text}" for kind, faults in verdict.faults.items() for fault in faults]


def on_record(name: str, **fields: Any) -> Change:
    return lambda world: _replace(world.records, name, fields)


def on_attempt(name: str, **fields: Any) -> Change:
    return lambda world: _replace(world.attempts, name, fields)


def on_client(name: str, **fields: Any) -> Change:
    return lambda world: _replace(world.clients, name, fields)


def refused(name: str, code: str) -> Change:
    """The client was told 503 in place of an answer."""
    return on_client(name, end="refused", status=503, code=code, retry_after="2", tokens=0, first_at=None, usage=None)


def not_settled(name: str) -> Change:
    return on_record(name, settled_at=None, transfer_id=None)


def released(name: str, reason: str = "model_unavailable") -> Change:
    """It has no record: its hold was given back."""

    def change(world: World) -> None:
        world.records.remove(_of(world.records, name))
        world.releases.append(Release(ACCOUNT, reason, 1))

    return change


def no_attempt(name: str) -> Change:
    return lambda world: world.attempts.remove(_of(world.attempts, name))


def no_client(name: str) -> Change:
    return lambda world: world.clients.remove(_of(world.clients, name))


def no_clients(world: World) -> None:
    """Nobody kept a ledger."""
    world.clients.clear()


def open_hold(name: str, *, amount: int = HELD, available_after: int = 5) -> Change:
    return lambda world: world.holds.append(Hold(call_id(name), ACCOUNT, amount, available_after, budget_id=1))


def late(name: str, account_id: int = ACCOUNT) -> Change:
    return lambda world: world.late.append(LateRecord(call_id(name), account_id))


def another_attempt(name: str, **fields: Any) -> Change:
    return lambda world: world.attempts.append(dataclasses.replace(_of(world.attempts, name), **fields))


def call_id(name: str) -> UUID:
    """A UUIDv7 of the call's second."""
    return UUID(int=int(seconds_of(name) * 1000) << 80 | 7 << 76 | 2 << 62 | CALLS.index(name))


def seconds_of(name: str) -> float:
    return START.timestamp() + CALLS.index(name)


def record(name: str, tokens: tuple[int, int, int], **fields: Any) -> Record:
    """Charged by RATES, and settled after a minute."""
    prompt, cached, output = tokens
    facts: dict[str, Any] = {
        "id": call_id(name),
        "account_id": ACCOUNT,
        "api_key_id": KEY,
        "model_id": MODEL,
        "price_version_id": PRICE,
        "attempt": 1,
        "outcome": "completed",
        "source": "backend",
        "recorded_at": START + timedelta(seconds=CALLS.index(name) + 20),
        "input_tokens": prompt,
        "cached_input_tokens": cached,
        "output_tokens": output,
        "held": HELD,
        "charge": (prompt - cached) * INPUT + cached * CACHED + output * OUTPUT,
        "clamped": False,
        "settled_at": START + timedelta(seconds=60),
        "transfer_id": 2,
    }
    return Record(**(facts | fields))


def attempt(name: str, tokens: int, *, end: str = "done", seconds: float = 1.0, **fields: Any) -> Attempt:
    accepted_at = seconds_of(name)
    facts: dict[str, Any] = {
        "call_id": call_id(name),
        "number": 1,
        "stream": True,
        "most_output": MOST_OUTPUT,
        "prompt_tokens": PROMPT,
        "cached_tokens": 0,
        "accepted_at": accepted_at,
        "ended_at": accepted_at + seconds,
        "completion_tokens": tokens,
        "tokens_written": tokens,
        "usage": None,
        "end": end,
    }
    return Attempt(**(facts | fields))


def client(name: str, tokens: int, *, end: str = "done", seconds: float = 1.0, **fields: Any) -> Client:
    facts: dict[str, Any] = {
        "call_id": call_id(name),
        "account_id": ACCOUNT,
        "first_at": seconds_of(name),
        "ended_at": seconds_of(name) + seconds,
        "status": 200,
        "tokens": tokens,
        "end": end,
        "code": None,
        "retry_after": None,
        "usage": None,
    }
    return Client(**(facts | fields))


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _of(facts: list[Fact], name: str) -> Fact:
    return next(fact for fact in facts if (fact.id if isinstance(fact, Record) else fact.call_id) == call_id(name))


def _replace(facts: list[Fact], name: str, fields: dict[str, Any]) -> None:
    fact = _of(facts, name)
    facts[facts.index(fact)] = dataclasses.replace(fact, **fields)


def _hour(records: list[Record]) -> Hour:
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "charge")
    sums = {name: sum(getattr(one, name) for one in records) for name in names}
    return Hour(ACCOUNT, KEY, MODEL, START.replace(minute=0), calls=len(records), **sums)
