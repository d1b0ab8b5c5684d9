"""Refunds: money that goes back to a card, and now and then does not arrive."""

from __future__ import annotations

from flint.sandbox.stripe_simulator import balance, events, intents, objects
from flint.sandbox.stripe_simulator.store import Json, Store, new_id
from flint.sandbox.stripe_simulator.wire import Params, invalid, missing

FAIL = "fail refund"
REASONS = ("duplicate", "fraudulent", "requested_by_customer")


def create(store: Store, params: Params) -> Json:
    charge = _charge_of(store, params.text("payment_intent"), params.text("charge"))
    left = charge["amount"] - charge["amount_refunded"]
    amount = params.amount("amount") if params.has("amount") else left
    reason = params.choice("reason", REASONS)
    metadata = params.metadata()
    params.insist_on_nothing_else()
    return give(store, charge, amount, reason=reason, metadata=metadata)


def _charge_of(store: Store, intent_id: str | None, charge_id: str | None) -> Json:
    if intent_id is not None:
        intent = intents.find(store, intent_id, param="payment_intent", status=400)
        charge_id = intent["latest_charge"]
        if intent["status"] != "succeeded":
            message = f"This PaymentIntent ({intent_id}) does not have a successful charge to refund."
            raise invalid(message, param="payment_intent", code="charge_not_refundable")
    if charge_id is None:
        raise invalid("One of the following params should be provided: payment_intent or charge.")
    charge = store.find("charge", charge_id)
    if charge is None:
        raise missing("charge", charge_id, param="charge", status=400)
    return charge


def give(store: Store, charge: Json, amount: int, *, reason: str | None, metadata: Json) -> Json:
    """Refund a part of the charge. Raises StripeError when that is more than is left of it."""
    left = charge["amount"] - charge["amount_refunded"]
    if charge["status"] != "succeeded":
        raise invalid("This charge has not been paid.", code="charge_not_refundable")
    if charge["disputed"]:
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise invalid(message, code="charge_disputed")
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise invalid(message, code="charge_already_refunded")
    if amount > left:
        shown = f"${amount // 100}.{amount % 100:02d}", f"${left // 100}.{left % 100:02d}"
        message = f"Refund amount ({shown[0]}) is greater than unrefunded amount on charge ({shown[1]})"
        raise invalid(message, param="amount")
    refund = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "charge": charge["id"],
        "created": store.now(),
        "currency": charge["currency"],
        "destination_details": {"type": "card", "card": {"type": "refund", **objects.nulls(*_REFERENCE)}},
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "reason": reason,
        "status": "succeeded",
        **objects.nulls("receipt_number", "source_transfer_reversal", "transfer_reversal"),
    }
    refund["balance_transaction"] = balance.move(store, refund, amount=-amount, type_="refund")["id"]
    store.add(refund)
    before = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    store.save(charge)
    events.tell(store, "refund.created", refund)
    events.tell(store, "charge.refunded", charge, before)
    if store.switch("refunds_fail_after_seconds") is not None:
        store.plan(FAIL, refund["id"], seconds=store.switch("refunds_fail_after_seconds"))
    return refund


_REFERENCE = ("reference", "reference_status", "reference_type")


def fail(store: Store, refund: Json) -> Json:
    """The bank sent it back: the money is in our balance again, and the charge has it as never refunded."""
    if refund["status"] != "succeeded":
        raise invalid("Only a refund that succeeded can fail.", param="refund")
    back = balance.move(store, refund, amount=refund["amount"], type_="refund_failure")
    refund |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
    refund["failure_balance_transaction"] = back["id"]
    store.save(refund)
    charge = store.get("charge", refund["charge"])
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    store.save(charge)
    events.tell(store, "refund.updated", refund, {"status": "succeeded"})
    events.tell(store, "refund.failed", refund)
    return refund
