"""A month as a document: the lines of the statement to the last pico-dollar, what each kind came to, and the tax."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime

from django.db.models import Q, Sum

from accounts.models import Account
from billing import details, money, periods, statements
from billing.models import DisputeMovement, Payment, Refund
from billing.paper import Paper, Table
from billing.periods import Period
from billing.statements import Line, Statement


def paper(account: Account, month: date, *, now: datetime) -> Paper:
    """The statement of the month that begins on `month`; of one that is not over, as far as it has gone."""
    of = statements.of_month(account, month)
    seller, buyer = details.seller(), details.buyer(account)
    last_day = periods.month_of(month).last_day
    today = now.astimezone(UTC).date()
    facts = [("From", f"{of.month}"), ("To", f"{min(last_day, today)}"), ("Account", buyer["account"])]
    return Paper(
        title="Statement",
        number=f"{month:%Y-%m}",
        seller=seller["lines"],
        buyer=buyer["lines"],
        facts=[*facts, ("Made", f"{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC")],
        table=Table(
            header=("Day", "What", "For", "Amount in USD", "Balance"),
            rows=[(str(line.day), line.title, _why(line), money.exactly(line.amount), money.exactly(line.balance))
                  for line in of.lines],
            numbers=2,
        ),
        totals=_totals(of, over=last_day < today),
        notes=_notes(account, of, over=last_day < today),
        watermark="",
    )  # fmt: skip


def _why(line: Line) -> str:
    return line.reason if line.at else f"{line.calls:,} call{'' if line.calls == 1 else 's'}"


def _totals(of: Statement, *, over: bool) -> list[tuple[str, str]]:
    """By what they are called, in the order in which they first came."""
    sums: dict[str, int] = {}
    for line in of.lines:
        sums[line.title] = sums.get(line.title, 0) + line.amount
    return [
        ("Opening balance", money.exactly(of.opening)),
        *((title, money.exactly(amount)) for title, amount in sums.items()),
        ("Closing balance" if over else "Balance so far", money.exactly(of.closing)),
    ]


def _notes(account: Account, of: Statement, *, over: bool) -> list[str]:
    period = periods.month_of(of.month)
    days = {"transfer__day__gte": of.month, "transfer__day__lte": period.last_day}
    paid = Payment.objects.filter(account=account, **days)
    of_money = paid.order_by("livemode").values_list("livemode").annotate(Sum("tax_cents"), Sum("total_cents"))
    notes = []
    for livemode, tax, total in of_money:
        kind = "" if livemode else "Simulated, no real money: "
        amounts = [money.exactly(money.from_cents(cents)) for cents in (total, tax)]
        notes.append(f"{kind}{amounts[0]} was paid for the top-ups of this month, {amounts[1]} of it tax.")
    notes += _refunded(account, period) + _disputed(account, period)
    notes.append(
        "Days are those of UTC. A call belongs to the day on which it began. Amounts are exact, in US dollars."
    )
    if not over:
        notes.append("The month is not over: this statement is not final.")
    return notes


def _refunded(account: Account, period: Period) -> list[str]:
    notes = []
    gone = Refund.objects.filter(payment__account=account, posted_at__gte=period.since, posted_at__lt=period.until)
    refunded = gone.order_by("payment__livemode").values_list("payment__livemode").annotate(
        tax=Sum("tax_cents"),
        total=Sum("amount_cents"),
        back=Sum("amount_cents", filter=Q(state=Refund.State.FAILED), default=0),
    )  # fmt: skip
    for livemode, tax, total, back in refunded:
        kind = "" if livemode else "Simulated, no real money: "
        amounts = [money.exactly(money.from_cents(cents)) for cents in (total, tax, back)]
        arrived = f" {amounts[2]} of it did not reach the card and came back." if back else ""
        notes.append(f"{kind}{amounts[0]} was refunded in this month, {amounts[1]} of it tax.{arrived}")
    return notes


def _disputed(account: Account, period: Period) -> list[str]:
    """What banks took, less what came back."""
    days = {"transfer__day__gte": period.since.date(), "transfer__day__lte": period.last_day}
    moved = DisputeMovement.objects.filter(dispute__payment__account=account, **days)
    taken: Counter[bool] = Counter()
    net: Counter[bool] = Counter()
    for movement in moved.select_related("transfer", "dispute__payment"):
        livemode = movement.dispute.payment.livemode
        taken[livemode] -= movement.cents
        if movement.transfer:
            net[livemode] += movement.transfer.amount if movement.cents < 0 else -movement.transfer.amount
    notes = []
    for livemode, cents in sorted(taken.items()):
        kind = "" if livemode else "Simulated, no real money: "
        whole, way = money.from_cents(abs(cents)), "taken back" if cents >= 0 else "given back again"
        tax = money.exactly(abs(money.from_cents(cents) - net[livemode]))
        notes.append(f"{kind}{money.exactly(whole)} of disputed payments was {way} in this month, {tax} of it tax.")
    return notes
