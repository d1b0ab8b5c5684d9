"""Stripe's side of the money: what each movement did to our balance there, fees included, and payouts of it."""

from __future__ import annotations

from flint.sandbox.stripe_simulator import events, objects
from flint.sandbox.stripe_simulator.store import Json, Store, new_id
from flint.sandbox.stripe_simulator.wire import invalid

FEE_BASIS_POINTS = 290
FEE_FIXED_CENTS = 30
DISPUTE_FEE_CENTS = 1500


def fee_of(amount: int) -> int:
    """2.9 % of the amount, rounded half up, and 30 cents."""
    return (amount * FEE_BASIS_POINTS + 5_000) // 10_000 + FEE_FIXED_CENTS


def move(store: Store, source: Json, *, amount: int, fee: int = 0, type_: str, category: str | None = None) -> Json:
    """Write down one movement of the balance, caused by this object."""
    return store.add(
        objects.balance_transaction(
            store.now(),
            amount=amount,
            fee=fee,
            currency=source["currency"],
            source=source["id"],
            type_=type_,
            category=category or type_,
            description=source.get("description"),
        )
    )


def available(store: Store) -> int:
    """What is in our balance now, in cents."""
    return sum(movement["net"] for movement in store.select("balance_transaction"))


def bill(store: Store, amount: int) -> Json:
    """Stripe takes a fee that belongs to no payment."""
    return _unsourced(store, -amount, "stripe_fee", "fee")


def adjust(store: Store, amount: int) -> Json:
    """Stripe corrects our balance by itself."""
    return _unsourced(store, amount, "adjustment", "other_adjustment")


def _unsourced(store: Store, amount: int, type_: str, category: str) -> Json:
    source: Json = {"id": None, "currency": "usd"}
    return move(store, source, amount=amount, type_=type_, category=category)


def pay_out(store: Store, amount: int) -> Json:
    """Send this much of the balance to our bank."""
    now = store.now()
    payout = {
        "id": new_id("po"),
        "object": "payout",
        "amount": amount,
        "arrival_date": now,
        "automatic": False,
        "created": now,
        "currency": "usd",
        "description": "Simulated payout",
        "destination": new_id("ba"),
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "reconciliation_status": "not_applicable",
        "source_type": "card",
        "status": "paid",
        "trace_id": {"status": "pending", "value": None},
        "type": "bank_account",
        **objects.nulls("application_fee", "application_fee_amount", "failure_balance_transaction", "failure_code"),
        **objects.nulls("failure_message", "original_payout", "payout_method", "reversed_by", "statement_descriptor"),
    }
    payout["balance_transaction"] = move(store, payout, amount=-amount, type_="payout")["id"]
    store.add(payout)
    events.tell(store, "payout.created", payout)
    events.tell(store, "payout.paid", payout)
    return payout


def return_payout(store: Store, payout: Json, status: str) -> Json:
    """It comes back: the bank did not take it (`failed`), or we called it back (`canceled`)."""
    if payout["status"] != "paid":
        raise invalid("Only a payout that was paid can come back.", param="payout")
    type_ = "payout_failure" if status == "failed" else "payout_cancel"
    back = move(store, payout, amount=payout["amount"], type_=type_, category="payout_reversal")
    payout |= {"status": status, "failure_balance_transaction": back["id"]}
    if status == "failed":
        payout |= {"failure_code": "account_closed", "failure_message": "The bank account has been closed."}
    store.save(payout)
    events.tell(store, f"payout.{status}", payout)
    return payout
