"""The control page, and the same as a small JSON interface: what happens after a payment, and what goes wrong.

Every action is a POST to /control/<action> with form fields; with `Accept: application/json` the answer is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from flint.sandbox.stripe_simulator import balance, checkout, disputes, events, intents, pages, refunds
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import StripeError, invalid, missing

SUCCEED = "succeed"
FAIL = "fail"
# What can go wrong with a call of the API: refused before it began; answered with 500 or not at all after it was done;
# answered late, and its idempotency key is in use until then.
CALL_FAULTS = ("rate_limit", "error_after_commit", "lose_answer", "hang")

Fields = Mapping[str, str]


class Control:
    def __init__(self, store: Store) -> None:
        self.store = store

    def carry_out(self, action: str, object_id: str) -> None:
        """Do what was planned for now. It may have been overtaken, and then nothing is done."""
        self.store.request = {"id": None, "idempotency_key": None}
        if action == checkout.EXPIRE:
            session = self.store.get("checkout.session", object_id)
            if session["status"] == "open":
                checkout.end_unpaid(self.store, session)
            return
        if action == refunds.FAIL:
            refund = self.store.get("refund", object_id)
            if refund["status"] == "succeeded":
                refunds.fail(self.store, refund)
            return
        intent = self.store.get("payment_intent", object_id)
        if intent["status"] == "processing":
            checkout.settle(self.store, intent, paid=action == SUCCEED)

    async def show(self, request: web.Request) -> web.Response:
        return pages.html(pages.control(self.store))

    async def state(self, request: web.Request) -> web.Response:
        """Everything there is, for tests and scripts."""
        kinds = [row["kind"] for row in self.store.database.execute("SELECT DISTINCT kind FROM objects")]
        found: Json = {kind: self.store.select(kind) for kind in kinds}
        rows = self.store.database.execute("SELECT * FROM deliveries ORDER BY id")
        return web.json_response(found | {"deliveries": [dict(row) for row in rows]})

    async def act(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        wants_json = "application/json" in request.headers.get("Accept", "")
        self.store.request = {"id": None, "idempotency_key": None}
        try:
            with self.store.transaction():
                done = self._act(request.match_info["action"], form)
        except StripeError as error:
            return web.json_response(error.body, status=error.status)
        if wants_json:
            return web.json_response(done)
        raise web.HTTPSeeOther("/control/")

    def _act(self, action: str, form: Fields) -> Any:
        """The object that was changed, or nothing. Raises StripeError when it cannot be done."""
        store = self.store
        match action:
            case "webhook":
                store.set_switch("webhook", {"url": form.get("url", ""), "secret": form.get("secret", "")})
            case "settle":
                intent = self._find("payment_intent", form)
                if intent["status"] != "processing":
                    raise invalid("Only a payment that is processing can be settled.", param="payment_intent")
                checkout.settle(store, intent, paid=form.get("outcome") != FAIL)
                return store.get("payment_intent", intent["id"])
            case "refund":
                charge = self._find("charge", form)
                left = charge["amount"] - charge["amount_refunded"]
                amount = _number(form, "amount", left)
                return refunds.give(store, charge, amount, reason="requested_by_customer", metadata={})
            case "fail-refund":
                return refunds.fail(store, self._find("refund", form))
            case "refunds-fail":
                seconds = form.get("seconds", "")
                store.set_switch("refunds_fail_after_seconds", int(seconds) if seconds.isdecimal() else None)
            case "dispute":
                return disputes.open_(store, self._find("charge", form), inquiry=form.get("inquiry") == "yes")
            case "withdraw" | "win" | "lose":
                decide = {"withdraw": disputes.withdraw, "win": disputes.win, "lose": disputes.lose}[action]
                return decide(store, self._find("dispute", form))
            case "fraud-warning":
                return disputes.warn(store, self._find("charge", form))
            case "payout":
                amount = _number(form, "amount", balance.available(store))
                if amount < 1:
                    raise invalid("There is nothing to pay out.", param="amount")
                return balance.pay_out(store, amount)
            case "return-payout":
                status = form.get("status", "failed")
                if status not in ("failed", "canceled"):
                    raise invalid("The status is failed or canceled.", param="status")
                return balance.return_payout(store, self._find("payout", form), status)
            case "fee":
                return balance.bill(store, _number(form, "amount", 200))
            case "adjustment":
                return balance.adjust(store, _number(form, "amount", 100))
            case "days":
                store.let_days_pass(_number(form, "days", 31))
            case "forget":
                store.forget()
            case "card":
                behaviour = form.get("behaviour", "")
                if behaviour not in ("", intents.AUTHENTICATE, *intents.DECLINES):
                    raise invalid(f"No card behaves like {behaviour}.", param="behaviour")
                store.note(self._find("payment_method", form)["id"], behaviour=behaviour)
            case "tax":
                store.set_switch(checkout.TAX_SWITCH, _number(form, "milli_percent", 0))
            case "events":
                kind = form.get("kind", "")
                if kind not in events.FAULTS:
                    raise invalid(f"The kind is one of {', '.join(events.FAULTS)}.", param="kind")
                fault = {"kind": kind, "count": _number(form, "count", 1), "seconds": _number(form, "seconds", 30)}
                store.set_switch("event_fault", fault)
            case "calls":
                kind = form.get("kind", "")
                if kind not in CALL_FAULTS:
                    raise invalid(f"The kind is one of {', '.join(CALL_FAULTS)}.", param="kind")
                fault = {"kind": kind, "count": _number(form, "count", 1), "seconds": _number(form, "seconds", 30)}
                store.set_switch("call_fault", fault | {"path": form.get("path", "")})
            case "replay":
                events.replay(store, self._find("event", form)["id"])
            case _:
                raise invalid(f"There is no action {action}.")
        return {}

    def _find(self, kind: str, form: Fields) -> Json:
        found = self.store.find(kind, form.get(kind, ""))
        if found is None:
            raise missing(kind, form.get(kind, ""), param=kind)
        return found


def _number(form: Fields, name: str, default: int) -> int:
    text = form.get(name, "")
    if text and not (text.isdecimal() and len(text) <= 9):
        raise invalid(f"Not a whole number: {text}", param=name)
    return int(text) if text else default
