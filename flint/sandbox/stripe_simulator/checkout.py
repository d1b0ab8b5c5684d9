"""Checkout sessions: what a customer is asked to pay, and what they do on the page."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from flint.sandbox.stripe_simulator import customers, events, intents, objects
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import Params, StripeError, invalid, missing

HOUR = 3600
MINIMUM_CENTS = 50
# In thousandths of a percent, so that no fraction is needed: 19 % is 19000.
TAX_SWITCH = "tax_milli_percent"
EXPIRE = "expire session"


def find(store: Store, id_: str) -> Json:
    """Raises StripeError when there is none."""
    session = store.find("checkout.session", id_)
    if session is None:
        raise missing("checkout.session", id_, param="session")
    return session


def create(store: Store, params: Params) -> Json:
    now, id_ = store.now(), f"cs_test_{secrets.token_hex(24)}"
    session = objects.session(now, id_, url=f"{store.url}/c/pay/{id_}")
    session["metadata"] = params.metadata()
    if params.required("mode") != "payment":
        raise invalid("The simulator has the mode `payment` only.", param="mode")
    session |= {name: params.text(name) for name in ("client_reference_id", "locale", "submit_type")}
    session |= {"success_url": _address(params, "success_url"), "cancel_url": None}
    if params.has("cancel_url"):
        session["cancel_url"] = _address(params, "cancel_url")
    _take_customer(store, session, params)
    session["expires_at"] = params.integer("expires_at") or now + 24 * HOUR
    if not now + HOUR // 2 - 60 <= session["expires_at"] <= now + 24 * HOUR:
        raise invalid(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    tax = params.hash("automatic_tax").boolean("enabled")
    _take_options(session, params, tax)
    lines = [_line(store, params, item, index) for index, item in enumerate(params.items("line_items"))]
    if not lines:
        raise invalid("Missing required param: line_items.", param="line_items", code="parameter_missing")
    wanted = _intent_fields(params)
    params.ignore("payment_method_options", "saved_payment_method_options", "custom_text", "consent_collection")
    params.insist_on_nothing_else()
    _add_up(store, session, lines, tax)
    if session["amount_total"] < MINIMUM_CENTS:
        message = "The Checkout Session's total amount must convert to at least 50 cents."
        raise invalid(message, param="line_items", code="amount_too_small")
    store.add(session, lines=lines, intent=wanted)
    store.plan(EXPIRE, id_, seconds=session["expires_at"] - now)
    return session


def _address(params: Params, name: str) -> str:
    url = params.required(name)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise invalid(f"Not a valid URL: {url}", param=name, code="url_invalid")
    return url


def _take_customer(store: Store, session: Json, params: Params) -> None:
    customer, email = params.text("customer"), params.text("customer_email")
    if customer and email:
        raise invalid("You may only specify one of these parameters: customer, customer_email.", param="customer")
    known = customers.find(store, customer) if customer else None
    session |= {"customer": customer, "customer_email": email}
    details = dict.fromkeys(("address", "business_name", "email", "individual_name", "name", "phone", "tax_exempt"))
    if known is not None:
        details |= {name: known[name] for name in ("address", "email", "name", "phone")}
    session["customer_details"] = details | {"email": details["email"] or email, "tax_exempt": "none", "tax_ids": []}
    params.ignore("customer_update", "customer_creation")


def _take_options(session: Json, params: Params, tax: bool) -> None:
    invoice = params.hash("invoice_creation")
    ids = params.hash("tax_id_collection")
    data = objects.nulls("account_tax_ids", "custom_fields", "description", "footer", "issuer", "rendering_options")
    codes = params.boolean("allow_promotion_codes")
    session |= {
        "adaptive_pricing": {"enabled": params.hash("adaptive_pricing").boolean("enabled", True)},
        "allow_promotion_codes": codes or None,
        "automatic_tax": {
            "enabled": tax,
            "liability": {"type": "self"} if tax else None,
            "provider": "stripe" if tax else None,
            "status": "complete" if tax else None,
        },
        "billing_address_collection": params.choice("billing_address_collection", ("auto", "required")),
        "invoice_creation": {"enabled": invoice.boolean("enabled"), "invoice_data": data | {"metadata": {}}},
        "payment_method_types": params.texts("payment_method_types") or ["card", "us_bank_account"],
        "tax_id_collection": {"enabled": ids.boolean("enabled"), "required": ids.text("required", "never")},
    }
    invoice.ignore("invoice_data")
    params.choice("ui_mode", ("hosted_page", "hosted"))


def _line(store: Store, params: Params, item: Params, index: int) -> Json:
    data = item.hash("price_data")
    if not data.values:
        raise invalid("The simulator has no prices: give price_data.", param=f"line_items[{index}][price]")
    product = data.hash("product_data")
    name, description = product.required("name"), product.text("description")
    product.ignore("tax_code", "metadata", "images")
    price = objects.price(
        store.now(),
        currency=data.required("currency").lower(),
        unit_amount=data.amount("unit_amount"),
        tax_behavior=data.choice("tax_behavior", ("exclusive", "inclusive", "unspecified")) or "unspecified",
    )
    quantity = item.integer("quantity", 1)
    assert quantity is not None  # noqa: S101  Told to the type checker.
    return objects.line_item(store.now(), name=name, description=description, quantity=quantity, price=price)


def _intent_fields(params: Params) -> Json:
    """What the payment intent of the session will have, besides amount and customer."""
    data = params.hash("payment_intent_data")
    wanted = {name: data.text(name) for name in ("description", "receipt_email", "statement_descriptor_suffix")}
    wanted["setup_future_usage"] = data.choice("setup_future_usage", ("off_session", "on_session"))
    data.ignore("capture_method", "statement_descriptor")
    return wanted | {"metadata": data.metadata()}


def _add_up(store: Store, session: Json, lines: list[Json], tax: bool) -> None:
    """The totals, tax included. Exclusive tax comes on top of a price, inclusive tax is a part of it."""
    rate = store.switch(TAX_SWITCH, 0) if tax else 0
    for line in lines:
        amount = line["amount_total"]
        if line["price"]["tax_behavior"] == "inclusive":
            line["amount_tax"] = amount - (amount * 100_000 * 2 + 100_000 + rate) // ((100_000 + rate) * 2)
            line["amount_subtotal"] = amount - line["amount_tax"]
        else:
            line["amount_tax"] = (amount * rate + 50_000) // 100_000
            line["amount_total"] = amount + line["amount_tax"]
    session |= {
        "currency": lines[0]["currency"],
        "amount_subtotal": sum(line["amount_subtotal"] for line in lines),
        "amount_total": sum(line["amount_total"] for line in lines),
        "total_details": {
            "amount_discount": 0,
            "amount_shipping": 0,
            "amount_tax": sum(line["amount_tax"] for line in lines),
        },
    }


def expire(store: Store, params: Params, id_: str) -> Json:
    session = find(store, id_)
    params.insist_on_nothing_else()
    if session["status"] != "open":
        raise invalid('Only Checkout Sessions with a status in ["open"] can be expired.', param="session")
    return end_unpaid(store, session)


def end_unpaid(store: Store, session: Json) -> Json:
    session |= {"status": "expired", "url": None}
    store.save(session)
    if session["payment_intent"] is not None:
        intent = store.get("payment_intent", session["payment_intent"])
        if intent["status"] in intents.CAN_CANCEL:
            intent |= {"status": "canceled", "canceled_at": store.now(), "cancellation_reason": "expired"}
            store.save(intent | {"next_action": None})
            events.tell(store, "payment_intent.canceled", store.get("payment_intent", intent["id"]))
    events.tell(store, "checkout.session.expired", session)
    return session


def of_intent(store: Store, intent_id: str) -> Json | None:
    """The session that the intent belongs to, if any."""
    return next(iter(store.select("checkout.session", {"payment_intent": intent_id})), None)


# What a customer does on the page. Each takes an open session; the page looks at that.


def pay(store: Store, session: Json, *, behaviour: str = "", last4: str = "4242") -> StripeError | None:
    """Pay with a card that behaves like this; the error is what the customer is told, and they can try again."""
    intent, method = _intent(store, session), _card(store, session, behaviour, last4)
    if behaviour:
        return intents.decline(store, intent, method, behaviour)
    _save_card(store, session, method)
    intents.succeed(store, intent, method)
    _complete(store, session, intent, paid=True)
    return None


def ask_for_authentication(store: Store, session: Json) -> None:
    intent, method = _intent(store, session), _card(store, session, intents.AUTHENTICATE, "3220")
    intents.ask_for_action(store, intent, method, url=f"{store.url}/c/authenticate/{session['id']}")


def is_being_authenticated(store: Store, session: Json) -> bool:
    intent = store.find("payment_intent", session["payment_intent"] or "")
    return intent is not None and intent["status"] == "requires_action"


def authenticate(store: Store, session: Json, *, passed: bool) -> None:
    """The end of 3-D Secure: the payment succeeds, or the customer may try again."""
    intent = store.get("payment_intent", session["payment_intent"])
    method = store.get("payment_method", intent["payment_method"])
    if not passed:
        intents.fail_authentication(store, intent)
        return
    _save_card(store, session, method)
    intents.succeed(store, intent, method)
    _complete(store, session, intent, paid=True)


def pay_later(store: Store, session: Json) -> Json:
    """Pay by bank debit: the session is complete, the money is not there. Returns the intent."""
    intent = _intent(store, session)
    email = session["customer_details"]["email"]
    method = store.add(objects.bank_account(store.now(), billing={"email": email}))
    intents.process(store, intent, method)
    _complete(store, session, intent, paid=False)
    return intent


def settle(store: Store, intent: Json, *, paid: bool) -> None:
    """What became of a payment by bank debit."""
    session = of_intent(store, intent["id"])
    if not paid:
        intents.fail_processed(store, intent)
    else:
        intents.settle_processed(store, intent)
    if session is not None:
        if paid:
            session["payment_status"] = "paid"
            store.save(session)
        events.tell(store, f"checkout.session.async_payment_{'succeeded' if paid else 'failed'}", session)


def _intent(store: Store, session: Json) -> Json:
    """The intent of the session; it is made with the first attempt to pay."""
    if session["payment_intent"] is not None:
        return store.get("payment_intent", session["payment_intent"])
    wanted = store.notes(session["id"])["intent"]
    intent = objects.payment_intent(
        store.now(),
        amount=session["amount_total"],
        currency=session["currency"],
        metadata=wanted["metadata"],
        types=session["payment_method_types"],
    )
    intent |= wanted | {"customer": session["customer"]}
    intents.open_(store, intent)
    session["payment_intent"] = intent["id"]
    store.save(session)
    return intent


def _card(store: Store, session: Json, behaviour: str, last4: str) -> Json:
    billing = {name: session["customer_details"][name] for name in ("email", "name")}
    method = objects.card(store.now(), last4=last4, year=_year(store) + 4, billing=billing)
    return store.add(method, behaviour=behaviour)


def _year(store: Store) -> int:
    return 1970 + store.now() // 31_556_952


def _save_card(store: Store, session: Json, method: Json) -> None:
    wanted = store.notes(session["id"])["intent"]
    if wanted["setup_future_usage"] and session["customer"]:
        customers.attach(store, method, session["customer"])


def _complete(store: Store, session: Json, intent: Json, *, paid: bool) -> None:
    session |= {"status": "complete", "payment_status": "paid" if paid else "unpaid", "url": None}
    store.save(session)
    events.tell(store, "checkout.session.completed", session)
