"""Events: what happened, told to the webhook with Stripe's signature, again and again until it is taken.

`tell` writes the event and its delivery in the transaction of what happened. The control page can have the next
deliveries doubled, delayed, reordered or dropped; an event that was dropped is still in the list of events.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import aiohttp

from flint.sandbox.stripe_simulator import objects
from flint.sandbox.stripe_simulator.store import Json, Store

FAULTS = ("duplicate", "delay", "reorder", "drop")
# After each failed attempt; the last one again and again, for as long as Stripe tries.
RETRY_SECONDS = (1, 2, 5, 10, 30, 60)
GIVE_UP_SECONDS = 3 * 24 * 3600
KEPT_SECONDS = 30 * 24 * 3600  # Older events are listed no more.
ATTEMPT_SECONDS = 10.0
REORDER_SECONDS = 1.0
TICK_SECONDS = 0.05


def tell(store: Store, type_: str, about: Json, previous: Json | None = None) -> Json:
    """Write down that this happened to the object, and have it delivered."""
    data = {"object": about} | ({} if previous is None else {"previous_attributes": previous})
    pending = 1 if store.switch("webhook") else 0
    event = objects.event(store.now(), type_=type_, data=data, request=store.request, pending=pending)
    store.add(event)
    if pending:
        _deliver_later(store, event["id"])
    return event


def _deliver_later(store: Store, event_id: str) -> None:
    fault = store.switch("event_fault") or {}
    left, kind, seconds = fault.get("count", 0), fault.get("kind"), fault.get("seconds", 0)
    due_at, state, copies = time.time(), "pending", 1
    if left > 0:
        store.set_switch("event_fault", fault | {"count": left - 1})
        if kind == "duplicate":
            copies = 2
        elif kind == "delay":
            due_at += seconds
        elif kind == "reorder":
            due_at += REORDER_SECONDS * left  # The first of them comes last.
        elif kind == "drop":
            state = "dropped"
    for _ in range(copies):
        store.database.execute(
            "INSERT INTO deliveries (event, due_at, state) VALUES (?, ?, ?)", (event_id, due_at, state)
        )


def replay(store: Store, event_id: str) -> None:
    """Deliver an event once more, whatever became of it."""
    store.database.execute("INSERT INTO deliveries (event, due_at) VALUES (?, ?)", (event_id, time.time()))


def deliveries(store: Store, event_id: str) -> list[Json]:
    rows = store.database.execute("SELECT * FROM deliveries WHERE event = ? ORDER BY id", (event_id,))
    return [dict(row) for row in rows]


def was_delivered(store: Store, event_id: str) -> bool:
    """Whether every delivery of the event succeeded, as `delivery_success` of Stripe's list asks."""
    return all(delivery["state"] == "delivered" for delivery in deliveries(store, event_id))


def signature(payload: bytes, secret: str, moment: int) -> str:
    """The header Stripe-Signature."""
    signed = hmac.new(secret.encode(), f"{moment}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={moment},v1={signed}"


class Postman:
    """Delivers what is due, one after the other, and does what was planned for now."""

    def __init__(self, store: Store, act: Callable[[str, str], None]) -> None:
        self.store = store
        self.act = act

    async def work(self) -> None:
        """Until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            while True:
                with self.store.transaction():
                    while due := self.store.take_due():
                        self.act(*due)
                if not await self._deliver_next(client):
                    await asyncio.sleep(TICK_SECONDS)

    async def _deliver_next(self, client: aiohttp.ClientSession) -> bool:
        """Whether there was something to deliver."""
        webhook = self.store.switch("webhook")
        row = self.store.database.execute(
            "SELECT * FROM deliveries WHERE state = 'pending' AND due_at <= ? ORDER BY due_at, id LIMIT 1",
            (time.time(),),
        ).fetchone()
        if row is None or not webhook:
            return False
        status = await self._post(client, webhook, self.store.get("event", row["event"]))
        with self.store.transaction():
            self._note(dict(row), status)
        return True

    async def _post(self, client: aiohttp.ClientSession, webhook: Json, event: Json) -> str:
        """The status of the answer, or why there was none."""
        payload = json.dumps(event, indent=2).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(payload, webhook["secret"], self.store.now()),
            "User-Agent": "Stripe/1.0 (simulated)",
        }
        try:
            async with client.post(webhook["url"], data=payload, headers=headers, allow_redirects=False) as answer:
                return str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__

    def _note(self, delivery: Json, status: str) -> None:
        event, attempts = self.store.get("event", delivery["event"]), delivery["attempts"] + 1
        state, due_at = "delivered", delivery["due_at"]
        if not (status.isdecimal() and 200 <= int(status) < 300):
            is_late = self.store.now() - event["created"] > GIVE_UP_SECONDS
            state = "failed" if is_late else "pending"
            due_at = time.time() + RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1]
        self.store.database.execute(
            "UPDATE deliveries SET state = ?, due_at = ?, attempts = ?, answer = ? WHERE id = ?",
            (state, due_at, attempts, status, delivery["id"]),
        )
        pending = [each for each in deliveries(self.store, event["id"]) if each["state"] == "pending"]
        self.store.save(event | {"pending_webhooks": 1 if pending else 0})
