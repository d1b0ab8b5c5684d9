"""As much of Stripe as a top-up needs, over a socket, so that the real client is what asks it.

A test says what a customer did (`pay`, `decline`), or changes an object as no Stripe would.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

Object = dict[str, Any]


class FakeStripe:
    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: list[tuple[str, str, Object]] = []  # Method, path, parameters.
        self.failing_with: int | None = None  # Answer this status; the work is done all the same.
        self._answers: dict[str, Object] = {}
        self._stall: _Stall | None = None
        self._numbers = itertools.count(1)
        self._word = uuid4().hex[:12]  # What committed tests leave behind has ids of other words.
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[FakeStripe]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def made(self, kind: str) -> list[Object]:
        return [found for found in self.objects.values() if found["object"] == kind]

    def dispute(self, intent_id: str, cents: int = 2500, **fields: Any) -> str:
        """A bank disputes the payment, and has taken nothing yet; returns the id of the dispute."""
        dispute = {
            "object": "dispute", "livemode": False, "amount": cents, "currency": "usd", "payment_intent": intent_id,
            "reason": "product_not_received", "status": "needs_response", "created": int(time.time()),
            "evidence_details": {"due_by": int(time.time()) + 7 * 24 * 3600}, "balance_transactions": [], **fields,
        }  # fmt: skip
        return str(self._add("du", dispute)["id"])

    def moves(self, dispute_id: str, cents: int, **fields: Any) -> str:
        """Money leaves our balance for the dispute, or comes back; the first of them costs a fee."""
        movements = self.objects[dispute_id]["balance_transactions"]
        fee = 0 if movements else 1500
        movement = {
            "object": "balance_transaction", "amount": cents, "fee": fee, "net": cents - fee, "currency": "usd",
            "created": int(time.time()), "source": dispute_id, "type": "adjustment", **fields,
        }  # fmt: skip
        movements.append(self._add("txn", movement))
        return str(movements[-1]["id"])

    def warn(self, intent_id: str | None) -> str:
        """The bank takes the payment for fraud; returns the id of its early warning."""
        warning: Object = {"object": "radar.early_fraud_warning", "livemode": False}
        warning |= {"payment_intent": intent_id} if intent_id else {}
        return str(self._add("issfr", {**warning, "fraud_type": "made_with_stolen_card", "actionable": True})["id"])

    def pay(self, session_id: str, *, status: str = "succeeded", tax: int = 0, **intent: Any) -> str:
        """The customer pays on the Checkout page; returns the id of the PaymentIntent."""
        session = self.objects[session_id]
        session["amount_total"] = session["amount_subtotal"] + tax
        session["total_details"]["amount_tax"] = tax
        session |= {"status": "complete", "payment_status": "paid" if status == "succeeded" else "unpaid"}
        return self.attempt(session_id, status=status, **intent)

    def attempt(self, session_id: str, **intent: Any) -> str:
        session = self.objects[session_id]
        intent_id = session["payment_intent"] or f"pi_{next(self._numbers)}_{self._word}"
        session["payment_intent"] = intent_id
        paid = intent.get("status") == "succeeded"
        charge = {
            "id": f"ch_{intent_id}", "object": "charge", "receipt_url": "https://pay.stripe.com/receipts/1",
            "payment_method_details": {
                "type": "card", "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2031},
            },
        }  # fmt: skip
        self.objects[intent_id] = {
            "id": intent_id, "object": "payment_intent", "livemode": False, "currency": "usd",
            "amount": session["amount_total"], "amount_received": session["amount_total"] if paid else 0,
            "customer": session["customer"], "metadata": session["_intent_metadata"], "payment_method": "pm_1",
            "last_payment_error": None, "latest_charge": charge if paid else None, **intent,
        }  # fmt: skip
        return intent_id

    def refunds_on_the_dashboard(self, intent_id: str, amount: int, **fields: Any) -> str:
        """Somebody refunds it on Stripe's own page; returns the id of the refund."""
        charge = self.objects[intent_id]["latest_charge"]["id"]
        refund = {
            "object": "refund", "amount": amount, "charge": charge, "currency": "usd",
            "metadata": {}, "payment_intent": intent_id, "status": "succeeded", **fields,
        }  # fmt: skip
        return str(self._add("re", refund)["id"])

    def forget_keys(self) -> None:
        """As Stripe does after a day."""
        self._answers.clear()

    @contextmanager
    def stalling(self, *, before_it_is_done: bool) -> Iterator[threading.Event]:
        """Never answer those who ask in the block; the event says that somebody does."""
        self._stall = _Stall(before_it_is_done)
        try:
            yield self._stall.reached
        finally:
            self._stall.over.set()
            self._stall = None

    def answer(self, method: str, path: str, params: Object, key: str | None) -> tuple[int, Object]:
        stall = self._stall
        if stall and stall.before:
            return stall.wait()
        status, answer = self._answer(method, path, params, key)
        return stall.wait() if stall else (status, answer)

    def _answer(self, method: str, path: str, params: Object, key: str | None) -> tuple[int, Object]:
        with self._lock:
            self.asked.append((method, path, params))
            status, answer = self._once(method, path, params, key) if key else self._act(method, path, params)
        if self.failing_with is not None:
            return self.failing_with, {"error": {"type": "api_error", "message": "Something went wrong."}}
        return status, answer

    def _once(self, method: str, path: str, params: Object, key: str) -> tuple[int, Object]:
        if key in self._answers:
            before = self._answers[key]
            if before["params"] != params:
                return 400, {"error": {"type": "idempotency_error", "message": "Other parameters."}}
            return before["status"], before["answer"]
        status, answer = self._act(method, path, params)
        self._answers[key] = {"params": params, "status": status, "answer": answer}
        return status, answer

    def _act(self, method: str, path: str, params: Object) -> tuple[int, Object]:
        match method, path.strip("/").split("/")[1:]:
            case "POST", ["customers"]:
                return 200, self._add("cus", {"object": "customer", "livemode": False, "metadata": {}})
            case "POST", ["checkout", "sessions"]:
                return self._open_session(params)
            case "GET", ["checkout", "sessions"]:
                found = [s for s in self.made("checkout.session") if s["payment_intent"] == params["payment_intent"]]
                return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/checkout/sessions"}
            case "POST", ["refunds"]:
                return self._refund(params)
            case "GET", ["refunds"]:
                ((name, value),) = [(name, params[name]) for name in ("payment_intent", "charge") if name in params]
                found = [refund for refund in self.made("refund") if refund[name] == value]
                return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/refunds"}
            case "GET", [*_, object_id] if object_id in self.objects:
                return 200, self.objects[object_id]
        return 404, {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such."}}

    def _open_session(self, params: Object) -> tuple[int, Object]:
        if params["customer"] not in self.objects:
            missing = {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}
            return 400, {"error": {**missing, "message": "No such customer."}}
        amount = int(params["line_items[0][price_data][unit_amount]"])
        session = self._add(
            "cs", {
                "object": "checkout.session", "livemode": False, "currency": "usd", "status": "open",
                "payment_status": "unpaid", "customer": params["customer"], "payment_intent": None,
                "client_reference_id": params["client_reference_id"], "amount_subtotal": amount,
                "amount_total": amount, "total_details": {"amount_tax": 0}, "expires_at": int(time.time()) + 3600,
                "success_url": params["success_url"], "metadata": {"payment": params["metadata[payment]"]},
                "_intent_metadata": {"payment": params["payment_intent_data[metadata][payment]"]},
            },
        )  # fmt: skip
        session["url"] = f"{self.url}/pay/{session['id']}"
        return 200, session

    def _refund(self, params: Object) -> tuple[int, Object]:
        intent, amount = params["payment_intent"], int(params["amount"])
        gone = [each["amount"] for each in self.made("refund") if each["payment_intent"] == intent]
        if sum(gone) + amount > self.objects[intent]["amount_received"]:
            error = {"type": "invalid_request_error", "code": "charge_already_refunded", "message": "Too much."}
            return 400, {"error": error}
        mark = {"refund": params["metadata[refund]"]}
        return 200, self.objects[self.refunds_on_the_dashboard(intent, amount, metadata=mark)]

    def _add(self, prefix: str, fields: Object) -> Object:
        made = {"id": f"{prefix}_{next(self._numbers)}_{self._word}", **fields}
        self.objects[made["id"]] = made
        return made


class _Stall:
    def __init__(self, before: bool) -> None:
        self.before, self.reached, self.over = before, threading.Event(), threading.Event()

    def wait(self) -> tuple[int, Object]:
        self.reached.set()
        self.over.wait()
        return 500, {"error": {"type": "api_error", "message": "Nobody listens any more."}}


def _handler(stripe: FakeStripe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._send("GET", parts.path, parts.query)

        def do_POST(self) -> None:
            self._send("POST", self.path, self.rfile.read(int(self.headers["Content-Length"] or 0)).decode())

        def _send(self, method: str, path: str, form: str) -> None:
            status, answer = stripe.answer(method, path, dict(parse_qsl(form)), self.headers["Idempotency-Key"])
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_ignored: object) -> None:
            """Tests say themselves what they asked."""

    return Handler
