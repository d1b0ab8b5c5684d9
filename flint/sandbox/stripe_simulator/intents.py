"""Payment intents and their charges: one attempt to pay after the other, until one succeeds.

A card's `behaviour` is a note of its payment method: empty (it pays), a decline code, or `authenticate` (it pays with
the customer there, who passes 3-D Secure).
"""

from __future__ import annotations

from flint.sandbox.stripe_simulator import balance, customers, events, objects
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import Params, StripeError, invalid, missing

AUTHENTICATE = "authenticate"
DECLINES = {
    "generic_decline": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "lost_card": "Your card was declined.",
    "stolen_card": "Your card was declined.",
    "do_not_honor": "Your card was declined.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}
# Their code is the decline code; of all others it is card_declined.
OWN_CODES = ("expired_card", "incorrect_cvc", "processing_error")
CAN_CANCEL = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCEL_REASONS = ("duplicate", "fraudulent", "requested_by_customer", "abandoned")


def find(store: Store, id_: str, *, param: str = "intent", status: int = 404) -> Json:
    """Raises StripeError when there is none."""
    intent = store.find("payment_intent", id_)
    if intent is None:
        raise missing("payment_intent", id_, param=param, status=status)
    return intent


def create(store: Store, params: Params) -> Json:
    amount, currency = params.amount("amount"), params.required("currency").lower()
    types = params.texts("payment_method_types") or ["card"]
    intent = objects.payment_intent(
        store.now(), amount=amount, currency=currency, metadata=params.metadata(), types=types
    )
    if customer := params.text("customer"):
        intent["customer"] = customers.find(store, customer)["id"]
    for name in ("description", "receipt_email", "statement_descriptor", "statement_descriptor_suffix"):
        intent[name] = params.text(name)
    intent["setup_future_usage"] = params.choice("setup_future_usage", ("off_session", "on_session"))
    automatic = params.hash("automatic_payment_methods")
    if automatic.boolean("enabled"):
        redirects = automatic.choice("allow_redirects", ("always", "never"), "always")
        intent["automatic_payment_methods"] = {"enabled": True, "allow_redirects": redirects}
    confirm = params.boolean("confirm")
    if not confirm and params.boolean("off_session"):
        raise invalid("You must also pass `confirm=true` when you pass `off_session`.", param="off_session")
    method = params.text("payment_method")
    if method is not None:
        intent |= {"payment_method": customers.attached(store, method, intent["customer"])["id"]}
        intent["status"] = "requires_confirmation"
    params.ignore("capture_method", "confirmation_method", "use_stripe_sdk")
    off_session, refuse_action = _confirmation(params)
    params.insist_on_nothing_else()
    open_(store, intent)
    return _confirm(store, intent, off_session, refuse_action) if confirm else intent


def open_(store: Store, intent: Json) -> Json:
    store.add(intent)
    events.tell(store, "payment_intent.created", intent)
    return intent


def confirm(store: Store, params: Params, id_: str) -> Json:
    intent = find(store, id_)
    if intent["status"] not in CAN_CANCEL:
        raise _unexpected_state(intent, "confirm")
    method = params.text("payment_method")
    if method is not None:
        intent["payment_method"] = customers.attached(store, method, intent["customer"])["id"]
    off_session, refuse_action = _confirmation(params)
    params.insist_on_nothing_else()
    return _confirm(store, intent, off_session, refuse_action)


def _confirmation(params: Params) -> tuple[bool, bool]:
    """Whether the customer is away, and whether an action of theirs is refused at once."""
    off_session, refuse = params.boolean("off_session"), params.boolean("error_on_requires_action")
    params.ignore("return_url", "mandate", "mandate_data")
    return off_session, off_session or refuse


def _confirm(store: Store, intent: Json, off_session: bool, refuse_action: bool) -> Json:
    if intent["payment_method"] is None:
        message = (
            "You cannot confirm this PaymentIntent because it's missing a payment method. Update the PaymentIntent "
            "with a payment method and then confirm it again."
        )
        raise invalid(message, code="payment_intent_unexpected_state")
    method = store.get("payment_method", intent["payment_method"])
    behaviour = store.notes(method["id"]).get("behaviour", "")
    if behaviour == AUTHENTICATE and refuse_action:
        message = "Your card was declined. This transaction requires authentication."
        raise decline(store, intent, method, "authentication_required", message)
    if behaviour == AUTHENTICATE:
        return ask_for_action(store, intent, method, url=f"{store.url}/three-d-secure/{intent['id']}")
    if behaviour:
        raise decline(store, intent, method, behaviour)
    return succeed(store, intent, method)


def decline(store: Store, intent: Json, method: Json, decline_code: str, message: str = "") -> StripeError:
    """Let an attempt fail at the bank; the error is what a request that confirmed it is answered with."""
    message = message or DECLINES.get(decline_code, "Your card was declined.")
    own = decline_code in OWN_CODES or decline_code == "authentication_required"
    code = decline_code if own else "card_declined"
    charge = _charge(store, intent, method)
    charge |= {"status": "failed", "failure_code": code, "failure_message": message}
    charge["outcome"] = objects.outcome(approved=False, decline_code=decline_code)
    store.add(charge)
    error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": message}
    error |= {"charge": charge["id"], "doc_url": f"https://stripe.com/docs/error-codes/{code}"}
    intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None}
    intent |= {"latest_charge": charge["id"], "last_payment_error": error | {"payment_method": method}}
    store.save(intent)
    events.tell(store, "charge.failed", charge)
    events.tell(store, "payment_intent.payment_failed", intent)
    fields = {name: value for name, value in error.items() if name not in ("type", "message")}
    return StripeError(402, "card_error", message, **fields, payment_intent=intent, payment_method=method)


def ask_for_action(store: Store, intent: Json, method: Json, *, url: str) -> Json:
    action: Json = {"type": "redirect_to_url", "redirect_to_url": {"return_url": None, "url": url}}
    intent |= {"status": "requires_action", "payment_method": method["id"], "next_action": action}
    store.save(intent)
    events.tell(store, "payment_intent.requires_action", intent)
    return intent


def fail_authentication(store: Store, intent: Json) -> Json:
    method = store.get("payment_method", intent["payment_method"])
    code = "payment_intent_authentication_failure"
    message = (
        "We are unable to authenticate your payment method. Please choose a different payment method and try again."
    )
    error: Json = {"type": "card_error", "code": code, "message": message, "payment_method": method}
    intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None}
    intent["last_payment_error"] = error
    store.save(intent)
    events.tell(store, "payment_intent.payment_failed", intent)
    return intent


def succeed(store: Store, intent: Json, method: Json) -> Json:
    """The money came: the charge is paid, and what it cost us is written to the balance."""
    return _settle(store, intent, store.add(_charge(store, intent, method)))


def process(store: Store, intent: Json, method: Json) -> Json:
    """A delayed method: whether the money comes is known later."""
    charge = store.add(_charge(store, intent, method))
    intent |= {"status": "processing", "payment_method": method["id"], "latest_charge": charge["id"]}
    store.save(intent)
    events.tell(store, "charge.pending", charge)
    events.tell(store, "payment_intent.processing", intent)
    return intent


def settle_processed(store: Store, intent: Json) -> Json:
    return _settle(store, intent, store.get("charge", intent["latest_charge"]))


def fail_processed(store: Store, intent: Json) -> Json:
    charge = store.get("charge", intent["latest_charge"])
    message = "The customer's bank account could not be debited: it has insufficient funds."
    charge |= {"status": "failed", "failure_code": "insufficient_funds", "failure_message": message}
    store.save(charge)
    error: Json = {"type": "invalid_request_error", "code": "payment_intent_payment_attempt_failed", "message": message}
    error |= {"charge": charge["id"], "payment_method": store.get("payment_method", intent["payment_method"])}
    intent |= {"status": "requires_payment_method", "payment_method": None, "last_payment_error": error}
    store.save(intent)
    events.tell(store, "charge.failed", charge)
    events.tell(store, "payment_intent.payment_failed", intent)
    return intent


def cancel(store: Store, params: Params, id_: str) -> Json:
    intent = find(store, id_)
    reason = params.choice("cancellation_reason", CANCEL_REASONS)
    params.insist_on_nothing_else()
    if intent["status"] not in CAN_CANCEL:
        raise _unexpected_state(intent, "cancel")
    intent |= {"status": "canceled", "canceled_at": store.now(), "cancellation_reason": reason, "next_action": None}
    store.save(intent)
    events.tell(store, "payment_intent.canceled", intent)
    return intent


def _charge(store: Store, intent: Json, method: Json) -> Json:
    charge = objects.charge(store.now(), intent, method, receipt_url="")
    return charge | {"receipt_url": f"{store.url}/receipts/{charge['id']}"}


def _settle(store: Store, intent: Json, charge: Json) -> Json:
    amount = intent["amount"]
    movement = balance.move(store, charge, amount=amount, fee=balance.fee_of(amount), type_="charge")
    charge |= {"status": "succeeded", "paid": True, "captured": True, "amount_captured": amount}
    charge |= {"outcome": objects.outcome(approved=True), "balance_transaction": movement["id"]}
    store.save(charge)
    intent |= {"status": "succeeded", "amount_received": amount, "latest_charge": charge["id"]}
    intent |= {"payment_method": charge["payment_method"], "last_payment_error": None, "next_action": None}
    store.save(intent)
    events.tell(store, "charge.succeeded", charge)
    events.tell(store, "payment_intent.succeeded", intent)
    return intent


def _unexpected_state(intent: Json, verb: str) -> StripeError:
    message = (
        f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
        f"with one of the following statuses may be used: {', '.join(CAN_CANCEL)}."
    )
    return StripeError(
        400, "invalid_request_error", message, code="payment_intent_unexpected_state", payment_intent=intent
    )
