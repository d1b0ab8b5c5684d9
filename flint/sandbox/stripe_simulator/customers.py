"""Customers and their saved payment methods."""

from __future__ import annotations

from flint.sandbox.stripe_simulator import events, objects
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import Params, invalid, missing

TEXTS = ("email", "name", "phone", "description")
ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")


def find(store: Store, id_: str, *, param: str = "customer", status: int = 400) -> Json:
    """Raises StripeError when there is none."""
    customer = store.find("customer", id_)
    if customer is None or "deleted" in customer:
        raise missing("customer", id_, param=param, status=status)
    return customer


def create(store: Store, params: Params) -> Json:
    customer = objects.customer(store.now(), params.metadata())
    _take(store, customer, params)
    params.insist_on_nothing_else()
    store.add(customer)
    events.tell(store, "customer.created", customer)
    return customer


def update(store: Store, params: Params, id_: str) -> Json:
    customer = find(store, id_, param="id", status=404)
    before = dict(customer)
    customer["metadata"] = params.metadata(customer["metadata"])
    _take(store, customer, params)
    params.insist_on_nothing_else()
    store.save(customer)
    changed = {name: before[name] for name in customer if before[name] != customer[name]}
    if changed:
        events.tell(store, "customer.updated", customer, changed)
    return customer


def delete(store: Store, params: Params, id_: str) -> Json:
    """It is known afterwards, by its id and as deleted, and its cards are gone."""
    customer = find(store, id_, param="id", status=404)
    params.insist_on_nothing_else()
    for method in store.select("payment_method", {"customer": id_}):
        store.save(method | {"customer": None})
    events.tell(store, "customer.deleted", customer)
    deleted: Json = {"id": id_, "object": "customer", "deleted": True}
    store.save(deleted)
    return deleted


def _take(store: Store, customer: Json, params: Params) -> None:
    customer |= {name: params.text(name) for name in TEXTS if params.has(name)}
    if params.has("address"):
        address = params.hash("address")
        customer["address"] = {name: address.text(name) for name in ADDRESS} if address.values else None
    tax_exempt = params.choice("tax_exempt", ("none", "exempt", "reverse"))
    customer["tax_exempt"] = tax_exempt or customer["tax_exempt"]
    settings = params.hash("invoice_settings")
    if settings.has("default_payment_method"):
        method = settings.text("default_payment_method")
        if method is not None:
            attached(store, method, customer["id"], param=settings.name("default_payment_method"))
        customer["invoice_settings"] |= {"default_payment_method": method}
    if params.has("preferred_locales"):
        customer["preferred_locales"] = params.texts("preferred_locales")
    params.ignore("tax", "shipping")


def attached(store: Store, method_id: str, customer: str | None, *, param: str = "payment_method") -> Json:
    """The saved payment method of this customer. Raises StripeError when it is not theirs."""
    method = store.find("payment_method", method_id)
    if method is None:
        raise missing("PaymentMethod", method_id, param=param, status=400)
    if customer is None or method["customer"] != customer:
        message = (
            "The provided PaymentMethod cannot be used with this customer: it was detached, or was never saved for "
            "later use."
        )
        raise invalid(message, param=param)
    return method


def attach(store: Store, method: Json, customer: str) -> Json:
    method["customer"] = customer
    store.save(method)
    events.tell(store, "payment_method.attached", method)
    return method


def detach(store: Store, params: Params, id_: str) -> Json:
    params.insist_on_nothing_else()
    method = store.find("payment_method", id_)
    if method is None:
        raise missing("PaymentMethod", id_, param="payment_method")
    if method["customer"] is None:
        raise invalid("The payment method you provided is not attached to a customer.", param="payment_method")
    customer = store.get("customer", method["customer"])
    method["customer"] = None
    store.save(method)
    events.tell(store, "payment_method.detached", method, {"customer": customer["id"]})
    if customer["invoice_settings"]["default_payment_method"] == id_:
        customer["invoice_settings"]["default_payment_method"] = None
        store.save(customer)
    return method
