"""Stripe's API: which path does what, who may call, idempotency keys, `expand`, and lists in pages."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

from flint.sandbox.stripe_simulator import checkout, customers, disputes, events, intents, objects, refunds
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import Params, StripeError, invalid, missing, nest

Handler = Callable[..., Json]
KEY_CHARACTERS_MAX = 255
PAGE_MAX = 100
EXPAND_DEPTH_MAX = 4


@dataclass(kw_only=True)
class Request:
    method: str
    path: str
    query: str
    body: bytes
    authorization: str
    idempotency_key: str | None
    id: str


@dataclass(kw_only=True)
class Answer:
    status: int
    body: Json
    headers: dict[str, str]


@dataclass(kw_only=True)
class Listing:
    """A list of one kind: which parameters filter by which value, and which of them is a must."""

    kind: str
    filters: dict[str, str]
    required: str = ""

    def __call__(self, store: Store, params: Params, path: str) -> Json:
        where = {place: value for name, place in self.filters.items() if (value := params.text(name))}
        if self.required:
            params.required(self.required)
        if "customer" in where and store.find("customer", where["customer"]) is None:
            raise missing("customer", where["customer"], param="customer", status=400)
        return page(store.select(self.kind, where, created=created_bounds(params)), params, path, self.kind)


def created_bounds(params: Params) -> dict[str, int]:
    """`created` as one moment, or as a range of gt, gte, lt and lte."""
    if isinstance(params.values.get("created"), str):
        moment = params.integer("created")
        return {} if moment is None else {"gte": moment, "lte": moment}
    child = params.hash("created")
    bounds = {name: child.integer(name) for name in ("gt", "gte", "lt", "lte")}
    return {name: moment for name, moment in bounds.items() if moment is not None}


def page(found: list[Json], params: Params, path: str, kind: str) -> Json:
    """The part of a list that was asked for. Raises StripeError when it begins at something that is not there."""
    limit = params.integer("limit", 10)
    after, before = params.text("starting_after"), params.text("ending_before")
    params.insist_on_nothing_else()
    if limit is None or not 1 <= limit <= PAGE_MAX:
        raise invalid(f"This value must be between 1 and {PAGE_MAX}.", param="limit", code="parameter_invalid_integer")
    ids = [item["id"] for item in found]
    for name, cursor in (("starting_after", after), ("ending_before", before)):
        if cursor is not None and cursor not in ids:
            raise missing(kind, cursor, param=name, status=400)
    if before is not None:
        rest = found[: ids.index(before)]
        return objects.listing(rest[-limit:], path, has_more=len(rest) > limit)
    rest = found[ids.index(after) + 1 :] if after is not None else found
    return objects.listing(rest[:limit], path, has_more=len(rest) > limit)


def retrieve(kind: str, param: str = "id") -> Handler:
    def handler(store: Store, params: Params, id_: str) -> Json:
        params.insist_on_nothing_else()
        found = store.find(kind, id_)
        if found is None:
            raise missing(kind, id_, param=param)
        return found

    return handler


def line_items(store: Store, params: Params, id_: str) -> Json:
    session = checkout.find(store, id_)
    lines = store.notes(session["id"])["lines"]
    return page(lines, params, f"/v1/checkout/sessions/{id_}/line_items", "item")


def list_events(store: Store, params: Params, path: str) -> Json:
    types = params.texts("types")
    if type_ := params.text("type"):
        types = [type_]
    delivered = params.boolean("delivery_success") if params.has("delivery_success") else None
    bounds = created_bounds(params)
    kept = store.now() - events.KEPT_SECONDS
    found = [
        event
        for event in store.select("event", created=bounds)
        if event["created"] >= kept
        and (not types or any(_is_type(event["type"], wanted) for wanted in types))
        and (delivered is None or events.was_delivered(store, event["id"]) == delivered)
    ]
    return page(found, params, path, "event")


def _is_type(type_: str, wanted: str) -> bool:
    return type_.startswith(wanted[:-1]) if wanted.endswith("*") else type_ == wanted


def payment_methods_of(store: Store, params: Params, customer: str) -> Json:
    customers.find(store, customer, status=404)
    type_ = params.text("type")
    params.ignore("allow_redisplay")
    where = {"customer": customer} | ({"type": type_} if type_ else {})
    found = store.select("payment_method", where)
    return page(found, params, f"/v1/customers/{customer}/payment_methods", "payment_method")


ROUTES: list[tuple[str, str, Handler]] = [
    ("POST", "/v1/customers", customers.create),
    ("GET", "/v1/customers", Listing(kind="customer", filters={"email": "email"})),
    ("GET", "/v1/customers/{id}", retrieve("customer")),
    ("POST", "/v1/customers/{id}", customers.update),
    ("DELETE", "/v1/customers/{id}", customers.delete),
    ("GET", "/v1/customers/{id}/payment_methods", payment_methods_of),
    ("POST", "/v1/checkout/sessions", checkout.create),
    (
        "GET",
        "/v1/checkout/sessions",
        Listing(
            kind="checkout.session",
            filters={"payment_intent": "payment_intent", "customer": "customer", "status": "status"},
        ),
    ),
    ("GET", "/v1/checkout/sessions/{id}", retrieve("checkout.session", "session")),
    ("POST", "/v1/checkout/sessions/{id}/expire", checkout.expire),
    ("GET", "/v1/checkout/sessions/{id}/line_items", line_items),
    ("POST", "/v1/payment_intents", intents.create),
    ("GET", "/v1/payment_intents", Listing(kind="payment_intent", filters={"customer": "customer"})),
    ("GET", "/v1/payment_intents/{id}", retrieve("payment_intent", "intent")),
    ("POST", "/v1/payment_intents/{id}/confirm", intents.confirm),
    ("POST", "/v1/payment_intents/{id}/cancel", intents.cancel),
    (
        "GET",
        "/v1/payment_methods",
        Listing(kind="payment_method", filters={"customer": "customer", "type": "type"}, required="customer"),
    ),
    ("GET", "/v1/payment_methods/{id}", retrieve("payment_method", "payment_method")),
    ("POST", "/v1/payment_methods/{id}/detach", customers.detach),
    (
        "GET",
        "/v1/charges",
        Listing(kind="charge", filters={"customer": "customer", "payment_intent": "payment_intent"}),
    ),
    ("GET", "/v1/charges/{id}", retrieve("charge")),
    ("POST", "/v1/refunds", refunds.create),
    (
        "GET",
        "/v1/refunds",
        Listing(kind="refund", filters={"charge": "charge", "payment_intent": "payment_intent"}),
    ),
    ("GET", "/v1/refunds/{id}", retrieve("refund")),
    (
        "GET",
        "/v1/disputes",
        Listing(kind="dispute", filters={"charge": "charge", "payment_intent": "payment_intent"}),
    ),
    ("GET", "/v1/disputes/{id}", retrieve("dispute", "dispute")),
    ("POST", "/v1/disputes/{id}/close", disputes.close),
    (
        "GET",
        "/v1/radar/early_fraud_warnings",
        Listing(kind="radar.early_fraud_warning", filters={"charge": "charge", "payment_intent": "payment_intent"}),
    ),
    ("GET", "/v1/radar/early_fraud_warnings/{id}", retrieve("radar.early_fraud_warning")),
    ("GET", "/v1/events", list_events),
    ("GET", "/v1/events/{id}", retrieve("event")),
    (
        "GET",
        "/v1/balance_transactions",
        Listing(kind="balance_transaction", filters={"type": "type", "source": "source", "currency": "currency"}),
    ),
    ("GET", "/v1/balance_transactions/{id}", retrieve("balance_transaction")),
    ("GET", "/v1/payouts", Listing(kind="payout", filters={"status": "status"})),
    ("GET", "/v1/payouts/{id}", retrieve("payout", "payout")),
]


def _route(method: str, path: str) -> tuple[Handler, list[str]] | None:
    for verb, pattern, handler in ROUTES:
        found = re.fullmatch(re.sub(r"\{id\}", r"([A-Za-z0-9_]+)", pattern), path)
        if verb == method and found is not None:
            return handler, list(found.groups()) or ([path] if method == "GET" else [])
    return None


class Api:
    """Answers requests; `secret_key` is the one key that is let in."""

    def __init__(self, store: Store, secret_key: str) -> None:
        self.store = store
        self.secret_key = secret_key
        self.running: set[str] = set()  # Keys of requests that are not answered yet: those that hang.

    def answer(self, request: Request, *, error_after: bool = False) -> Answer:
        """Carry the request out; with `error_after` it is done, and Stripe says that it failed."""
        headers = {"Request-Id": request.id, "Stripe-Version": objects.VERSION}
        key = request.idempotency_key if request.method == "POST" else None
        if key:
            headers["Idempotency-Key"] = key
        self.store.request = {"id": request.id, "idempotency_key": key}
        try:
            with self.store.transaction():
                self._authenticate(request.authorization)
                status, body, replayed = self._once(request, key, error_after)
        except StripeError as error:
            status, body, replayed = error.status, error.body, {}
        if status >= 400:
            body["error"].setdefault("request_log_url", f"{self.store.url}/control/#{request.id}")
        return Answer(status=status, body=body, headers=headers | replayed)

    def _authenticate(self, authorization: str) -> None:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                credential = base64.b64decode(credential, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                credential = ""
        if not credential:
            raise StripeError(401, "invalid_request_error", "You did not provide an API key.")
        if credential != self.secret_key:
            shown = f"{credential[:7]}{'*' * 8}{credential[-4:]}"
            raise StripeError(
                401, "invalid_request_error", f"Invalid API Key provided: {shown}", code="api_key_invalid"
            )

    def _once(self, request: Request, key: str | None, error_after: bool) -> tuple[int, Json, dict[str, str]]:
        """The answer, or the first one again for a key that was used before."""
        if key is None:
            return *self._outcome(request, error_after), {}
        if len(key) > KEY_CHARACTERS_MAX:
            raise invalid("Idempotency keys may have 255 characters at most.")
        row = self.store.database.execute("SELECT * FROM answers WHERE key = ?", (key,)).fetchone()
        parameters = sorted(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
        same = hashlib.sha256(json.dumps([request.method, request.path, parameters]).encode()).hexdigest()
        if row is not None and row["request"] != same:
            message = (
                f"Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise StripeError(400, "idempotency_error", message)
        if key in self.running:
            message = f"There is currently another in-progress request using this Idempotent Key: {key}."
            raise StripeError(409, "idempotency_error", message, code="idempotency_key_in_use")
        if row is not None:
            replayed = {"Idempotent-Replayed": "true", "Original-Request": row["request_id"]}
            return row["status"], json.loads(row["body"]), replayed
        # A request that is refused for its parameters did not begin: it raises, and its key stays free.
        status, body = self._outcome(request, error_after)
        self.store.database.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (key, same, status, json.dumps(body), request.id)
        )
        return status, body, {}

    @contextmanager
    def in_use(self, key: str | None) -> Iterator[None]:
        """Let the key be that of a request in progress."""
        self.running.add(key or "")
        try:
            yield
        finally:
            self.running.discard(key or "")

    def refuse(self, request: Request) -> Answer:
        error = StripeError(429, "invalid_request_error", "Too many requests in a short time.", code="rate_limit")
        return Answer(status=429, body=error.body, headers={"Request-Id": request.id})

    def _outcome(self, request: Request, error_after: bool) -> tuple[int, Json]:
        status, body = self._carry_out(request)
        if error_after:
            return 500, StripeError(500, "api_error", "An unknown error occurred at Stripe.").body
        return status, body

    def _carry_out(self, request: Request) -> tuple[int, Json]:
        found = _route(request.method, request.path)
        if found is None:
            message = f"Unrecognized request URL ({request.method}: {request.path}). The simulator may lack it."
            raise StripeError(404, "invalid_request_error", message)
        handler, arguments = found
        text = request.query if request.method == "GET" else request.body.decode(errors="replace")
        params = Params(nest(parse_qsl(text, keep_blank_values=True)))
        wanted = params.texts("expand")
        try:
            body = handler(self.store, params, *arguments)
        except StripeError as error:
            if error.status != 402:
                raise  # Nothing happened, so nothing is kept.
            return 402, error.body
        for path in wanted:
            body = expand(self.store, body, path.split("."), path)
        return 200, body


def expand(store: Store, body: Json, steps: list[str], path: str) -> Json:
    """The object with one of its references replaced by what it refers to."""
    first, *rest = steps
    if len(steps) > EXPAND_DEPTH_MAX:
        raise invalid("You cannot expand more than 4 levels of a property.", param="expand")
    if first == "line_items" and body.get("object") == "checkout.session":
        url = f"/v1/checkout/sessions/{body['id']}/line_items"
        return body | {"line_items": objects.listing(store.notes(body["id"])["lines"], url)}
    if first == "refunds" and body.get("object") == "charge":
        url = f"/v1/charges/{body['id']}/refunds"
        return body | {"refunds": objects.listing(store.select("refund", {"charge": body["id"]}), url)}
    if first not in body:
        raise invalid(f"This property cannot be expanded ({path}).", param="expand")
    value = body[first]
    if isinstance(value, list):
        return body | {first: [expand(store, each, rest, path) if rest else each for each in value]}
    if isinstance(value, str):
        row = store.database.execute("SELECT body FROM objects WHERE id = ?", (value,)).fetchone()
        if row is None:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand")
        value = json.loads(row["body"])
    if rest and value is not None:
        value = expand(store, value, rest, path)
    return body | {first: value}
