"""The control page, and the same as a small JSON interface: what happens after a payment, and what goes wrong.

Every action is a POST to /control/<action> with form fields; with `Accept: application/json` the answer is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from flint.sandbox.stripe_simulator import checkout, events
from flint.sandbox.stripe_simulator.store import Json, Store
from flint.sandbox.stripe_simulator.wire import StripeError, invalid

SUCCEED = "succeed"
FAIL = "fail"

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
        intent = self.store.get("payment_intent", object_id)
        if intent["status"] == "processing":
            checkout.settle(self.store, intent, paid=action == SUCCEED)

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response({})

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
        match action:
            case "webhook":
                self.store.set_switch("webhook", {"url": form["url"], "secret": form["secret"]})
                return {}
            case "settle":
                intent = self.store.find("payment_intent", form.get("payment_intent", ""))
                if intent is None or intent["status"] != "processing":
                    raise invalid("Only a payment that is processing can be settled.", param="payment_intent")
                checkout.settle(self.store, intent, paid=form.get("outcome") != FAIL)
                return self.store.get("payment_intent", intent["id"])
            case "replay":
                events.replay(self.store, self.store.get("event", form["event"])["id"])
                return {}
            case _:
                raise invalid(f"There is no action {action}.")
