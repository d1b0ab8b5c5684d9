"""How each object looks when it is new: the keys of Stripe's API version that `VERSION` names, most of them null."""

from __future__ import annotations

from flint.sandbox.stripe_simulator.store import Json, new_id

VERSION = "2026-10-28.endive"
NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
NOBODY: Json = {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}


def nulls(*names: str) -> Json:
    return dict.fromkeys(names)


def listing(data: list[Json], url: str, *, has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def customer(now: int, metadata: Json) -> Json:
    return {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now,
        "delinquent": False,
        "invoice_prefix": new_id("x")[-8:].upper(),
        "invoice_settings": nulls("custom_fields", "default_payment_method", "footer", "rendering_options"),
        "livemode": False,
        "metadata": metadata,
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
        **nulls("currency", "customer_account", "default_source", "description", "discount", "email", "name"),
        **nulls("phone", "shipping", "test_clock"),
    }


def card(now: int, *, last4: str, year: int, billing: Json) -> Json:
    return {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": NOBODY | billing,
        "card": {
            "brand": "visa",
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": "visa",
            "exp_month": 12,
            "exp_year": year,
            "fingerprint": f"simulated{last4}",
            "funding": "credit",
            "generated_from": None,
            "last4": last4,
            "networks": {"available": ["visa"], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": now,
        "livemode": False,
        "metadata": {},
        "type": "card",
        **nulls("customer", "customer_account"),
    }


def bank_account(now: int, *, billing: Json) -> Json:
    """The delayed method: its payment is known days later."""
    return {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": NOBODY | billing,
        "created": now,
        "livemode": False,
        "metadata": {},
        "type": "us_bank_account",
        "us_bank_account": {
            "account_holder_type": "individual",
            "account_type": "checking",
            "bank_name": "STRIPE TEST BANK",
            "fingerprint": "simulatedbank",
            "last4": "6789",
            "networks": {"preferred": "ach", "supported": ["ach"]},
            "routing_number": "110000000",
            **nulls("financial_connections_account", "status_details"),
        },
        **nulls("customer", "customer_account"),
    }


def payment_intent(now: int, *, amount: int, currency: str, metadata: Json, types: list[str]) -> Json:
    id_ = new_id("pi")
    return {
        "id": id_,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "automatic_payment_methods": None,
        "capture_method": "automatic_async",
        "client_secret": f"{id_}_secret_{new_id('s')[2:]}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": currency,
        "livemode": False,
        "metadata": metadata,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"} | nulls(*_CARD_OPTIONS)},
        "payment_method_types": types,
        "status": "requires_payment_method",
        **nulls("application", "application_fee_amount", "canceled_at", "cancellation_reason", "customer"),
        **nulls("customer_account", "description", "excluded_payment_method_types", "last_payment_error"),
        **nulls("latest_charge", "next_action", "on_behalf_of", "payment_method", "processing", "receipt_email"),
        **nulls("payment_method_configuration_details", "review", "setup_future_usage", "shipping", "source"),
        **nulls("statement_descriptor", "statement_descriptor_suffix", "transfer_data", "transfer_group"),
    }


_CARD_OPTIONS = ("installments", "mandate_options", "network")


def charge(now: int, intent: Json, method: Json, *, receipt_url: str) -> Json:
    return {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "FLINT",
        "captured": False,
        "created": now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": None,
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": _method_details(method),
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_url": receipt_url,
        "refunded": False,
        "status": "pending",
        **nulls("application", "application_fee", "application_fee_amount", "balance_transaction"),
        **nulls("failure_balance_transaction", "failure_code", "failure_message", "on_behalf_of", "receipt_number"),
        **nulls("review", "shipping", "source", "source_transfer", "statement_descriptor"),
        **nulls("statement_descriptor_suffix", "transfer_data", "transfer_group"),
    }


def _method_details(method: Json) -> Json:
    if method["type"] == "us_bank_account":
        kept = ("account_holder_type", "account_type", "bank_name", "fingerprint", "last4", "routing_number")
        account = {name: method["us_bank_account"][name] for name in kept} | nulls("payment_reference")
        return {"type": "us_bank_account", "us_bank_account": account}
    shown = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4")
    details = {name: method["card"][name] for name in (*shown, "regulated_status", "wallet")}
    unknown = nulls("authorization_code", "installments", "mandate", "network_token", "three_d_secure")
    return {"type": "card", "card": details | unknown | {"network": "visa", "network_transaction_id": None}}


def outcome(*, approved: bool, decline_code: str | None = None) -> Json:
    return {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None if approved else "05",
        "network_status": "approved_by_network" if approved else "declined_by_network",
        "reason": decline_code,
        "risk_level": "normal",
        "risk_score": 12,
        "seller_message": "Payment complete." if approved else "The bank did not return any further details.",
        "type": "authorized" if approved else "issuer_declined",
    }


def session(now: int, id_: str, *, url: str) -> Json:
    return {
        "id": id_,
        "object": "checkout.session",
        "created": now,
        "custom_fields": [],
        "custom_text": nulls("after_submit", "shipping_address", "submit", "terms_of_service_acceptance"),
        "livemode": False,
        "mode": "payment",
        "payment_method_collection": "if_required",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "ui_mode": "hosted_page",
        "url": url,
        **nulls("after_expiration", "allow_promotion_codes", "billing_address_collection", "branding_settings"),
        **nulls("client_secret", "collected_information", "consent", "consent_collection", "currency_conversion"),
        **nulls("customer_account", "customer_creation", "customer_details", "discounts", "invoice", "locale"),
        **nulls("origin_context", "payment_intent", "payment_link", "payment_method_configuration_details"),
        **nulls("recovered_from", "saved_payment_method_options", "setup_intent", "shipping_address_collection"),
        **nulls("shipping_cost", "submit_type", "subscription", "wallet_options", "customer_email", "return_url"),
    }


def line_item(now: int, *, name: str, description: str | None, quantity: int, price: Json) -> Json:
    total = price["unit_amount"] * quantity
    return {
        "id": new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": description or name,
        "metadata": {},
        "price": price,
        "quantity": quantity,
    }


def price(now: int, *, currency: str, unit_amount: int, tax_behavior: str) -> Json:
    return {
        "id": new_id("price"),
        "object": "price",
        "active": False,
        "billing_scheme": "per_unit",
        "created": now,
        "currency": currency,
        "livemode": False,
        "metadata": {},
        "product": new_id("prod"),
        "tax_behavior": tax_behavior,
        "type": "one_time",
        "unit_amount": unit_amount,
        "unit_amount_decimal": str(unit_amount),
        **nulls("custom_unit_amount", "lookup_key", "nickname", "recurring", "tiers_mode", "transform_quantity"),
    }


def balance_transaction(
    now: int,
    *,
    amount: int,
    fee: int,
    currency: str,
    source: str | None,
    type_: str,
    category: str,
    description: str | None,
) -> Json:
    details = {"amount": fee, "application": None, "currency": currency, "description": "Stripe processing fees"}
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now,
        "balance_type": "payments",
        "created": now,
        "currency": currency,
        "description": description,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [details | {"type": "stripe_fee"}] if fee else [],
        "net": amount - fee,
        "reporting_category": category,
        "source": source,
        "status": "available",
        "type": type_,
    }


def event(now: int, *, type_: str, data: Json, request: Json, pending: int) -> Json:
    return {
        "id": new_id("evt"),
        "object": "event",
        "api_version": VERSION,
        "created": now,
        "data": data,
        "livemode": False,
        "pending_webhooks": pending,
        "request": request,
        "type": type_,
    }
