"""Everything that is known of one call, from all sides, and what it should have been charged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.chaos.judge.books import Books, Hold, LateRecord, Record
from tests.chaos.judge.evidence import Attempt, Client
from tests.chaos.judge.prices import PriceTable


@dataclass(frozen=True, slots=True)
class Priced:
    """A record, and what the judge makes of it: `cost` of its tokens, `charge` after the clamp to its hold."""

    record: Record
    version_id: int | None  # In force at its moment.
    cost: int

    @property
    def charge(self) -> int:
        return min(self.record.held, self.cost)


@dataclass(slots=True)
class Case:
    id: UUID
    records: list[Priced] = field(default_factory=list)
    hold: Hold | None = None
    late: LateRecord | None = None
    attempts: list[Attempt] = field(default_factory=list)
    client: Client | None = None
    ledger_kept: bool = False  # Then a call without a client passed nothing on to one: its answer never began.

    @property
    def account_id(self) -> int | None:
        owners = (*(priced.record for priced in self.records), self.hold, self.client)
        return next((owner.account_id for owner in owners if owner is not None), None)

    @property
    def last_attempt(self) -> Attempt | None:
        return max(self.attempts, key=lambda attempt: attempt.number, default=None)

    def attempt(self, number: int) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    def streamed_seconds(self, attempt: Attempt) -> float:
        """How long a stream's tokens came, from the client's first one; without a client ledger, from the acceptance.

        The journal does not say when the first token came. Without a ledger it must come soon for this to be fair.
        """
        begun_at = None if self.ledger_kept else attempt.accepted_at
        ended_at = attempt.ended_at
        if self.client is not None:
            begun_at = self.client.first_at
            ended_at = self.client.ended_at if ended_at is None else ended_at
        if not attempt.stream or begun_at is None or ended_at is None:
            return 0
        return max(ended_at - begun_at, 0)

    def written(self, attempt: Attempt) -> int:
        """The output tokens that surely were written; the client may know of more than a backend that died."""
        return max(attempt.tokens_written, self.client.tokens if self.client else 0)


def join(books: Books, attempts: Iterable[Attempt], clients: Sequence[Client], *, whole: bool) -> list[Case]:
    """A case for each call. Unless the books are `whole`, attempts that nothing else knows belong to somebody else."""
    cases: dict[UUID, Case] = {}

    def case(call_id: UUID) -> Case:
        return cases.get(call_id) or cases.setdefault(call_id, Case(call_id, ledger_kept=bool(clients)))

    for record in books.records:
        case(record.id).records.append(_priced(record, books.prices))
    for hold in books.holds:
        case(hold.id).hold = hold
    for late in books.late:
        case(late.id).late = late
    for client in clients:
        if client.call_id is not None:
            case(client.call_id).client = client
    for attempt in attempts:
        if whole or attempt.call_id in cases:
            case(attempt.call_id).attempts.append(attempt)
    return list(cases.values())


def _priced(record: Record, prices: PriceTable) -> Priced:
    version_id = prices.in_force(record.model_id, record.account_id, record.admitted_at)
    cost = 0 if version_id is None else prices.cost(version_id, record.tokens)
    return Priced(record, version_id, cost)
