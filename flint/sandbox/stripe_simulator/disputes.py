"""Disputes: a bank takes the money of a charge back, or only asks; and early fraud warnings."""

from __future__ import annotations

from flint.sandbox.stripe_simulator import balance, events, objects
from flint.sandbox.stripe_simulator.store import Json, Store, new_id
from flint.sandbox.stripe_simulator.wire import Params, invalid, missing

OPEN = ("needs_response", "under_review")
INQUIRY = ("warning_needs_response", "warning_under_review")
ANSWER_SECONDS = 7 * 24 * 3600
_EVIDENCE = (
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)


def open_(store: Store, charge: Json, *, inquiry: bool = False, reason: str = "fraudulent") -> Json:
    """The bank of the customer disputes what is left of a charge; an inquiry moves no money."""
    if charge["status"] != "succeeded" or charge["disputed"]:
        raise invalid("Only a paid charge that is not disputed can be disputed.", param="charge")
    amount = charge["amount"] - charge["amount_refunded"]
    if amount == 0:
        raise invalid("Nothing is left of this charge.", param="charge")
    case = "inquiry" if inquiry else "chargeback"
    card = {"brand": "visa", "case_type": case, "network": "visa", "network_reason_code": "10.4"}
    dispute = {
        "id": new_id("du"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": store.now(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": objects.nulls(*_EVIDENCE) | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": store.now() + ANSWER_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {"type": "card", "card": card},
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }
    store.add(dispute)
    if not inquiry:
        charge["disputed"] = True
        store.save(charge)
    events.tell(store, "charge.dispute.created", dispute)
    return dispute if inquiry else withdraw(store, dispute)


def withdraw(store: Store, dispute: Json) -> Json:
    """The amount and the fee leave our balance; an inquiry becomes a dispute by it."""
    if dispute["balance_transactions"]:
        raise invalid("The money of this dispute was withdrawn already.", param="dispute")
    if dispute["status"] in INQUIRY:
        dispute |= {"status": "needs_response", "is_charge_refundable": False}
        dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
        store.save(store.get("charge", dispute["charge"]) | {"disputed": True})
    return _move(store, dispute, -dispute["amount"], balance.DISPUTE_FEE_CENTS, "funds_withdrawn")


def _move(store: Store, dispute: Json, amount: int, fee: int, what: str) -> Json:
    category = "dispute" if amount < 0 else "dispute_reversal"
    movement = balance.move(store, dispute, amount=amount, fee=fee, type_="adjustment", category=category)
    dispute["balance_transactions"].append(movement)
    store.save(dispute)
    events.tell(store, f"charge.dispute.{what}", dispute)
    return dispute


def win(store: Store, dispute: Json) -> Json:
    """The bank decides for us: what was withdrawn comes back, without the fee."""
    _insist_on_open(dispute)
    if dispute["balance_transactions"]:
        dispute["status"] = "won"
        _move(store, dispute, dispute["amount"], 0, "funds_reinstated")
    else:
        dispute["status"] = "warning_closed"
    return _end(store, dispute)


def lose(store: Store, dispute: Json) -> Json:
    """The bank decides for the customer: what was withdrawn is gone."""
    _insist_on_open(dispute)
    dispute["status"] = "lost" if dispute["balance_transactions"] else "warning_closed"
    return _end(store, dispute)


def _insist_on_open(dispute: Json) -> None:
    if dispute["status"] not in (*OPEN, *INQUIRY):
        raise invalid("This dispute is already closed.", param="dispute")


def _end(store: Store, dispute: Json) -> Json:
    store.save(dispute)
    events.tell(store, "charge.dispute.closed", dispute)
    return dispute


def close(store: Store, params: Params, id_: str) -> Json:
    """Give in, as the API lets us."""
    params.insist_on_nothing_else()
    dispute = store.find("dispute", id_)
    if dispute is None:
        raise missing("dispute", id_, param="dispute")
    return lose(store, dispute)


def warn(store: Store, charge: Json) -> Json:
    warning = {
        "id": new_id("issfr"),
        "object": "radar.early_fraud_warning",
        "actionable": not charge["refunded"] and not charge["disputed"],
        "charge": charge["id"],
        "created": store.now(),
        "fraud_type": "made_with_stolen_card",
        "livemode": False,
        "payment_intent": charge["payment_intent"],
    }
    store.add(warning)
    events.tell(store, "radar.early_fraud_warning.created", warning)
    return warning
