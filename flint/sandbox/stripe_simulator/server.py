"""The server: Stripe's API under /v1, the Checkout page under /c, the control page under /control."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from flint.sandbox.stripe_simulator import checkout, control, pages
from flint.sandbox.stripe_simulator.api import Api, Request
from flint.sandbox.stripe_simulator.events import Postman
from flint.sandbox.stripe_simulator.store import Json, Store, new_id

BODY_BYTES_MAX = 1024 * 1024
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def from_here_only(request: web.Request, handler: Next) -> web.StreamResponse:
    """A page of another site must not press our buttons, nor read us through a name that points to loopback."""
    if urlsplit(f"//{request.host}").hostname not in LOOPBACK_NAMES:
        raise web.HTTPForbidden(text="The simulator answers on loopback only.\n")
    if request.method != "GET" and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise web.HTTPForbidden(text="This was sent by a page of another site.\n")
    return await handler(request)


class Simulator:
    """Everything one process of the simulator holds."""

    def __init__(self, store: Store, secret_key: str) -> None:
        self.store = store
        self.api = Api(store, secret_key)
        self.control = control.Control(store)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[from_here_only])
        router = application.router
        router.add_get("/health", self.health)
        router.add_get("/c/pay/{id}", self.show_checkout)
        router.add_post("/c/pay/{id}/{action}", self.act_on_checkout)
        router.add_get("/c/authenticate/{id}", self.show_authentication)
        router.add_post("/c/authenticate/{id}", self.authenticate)
        router.add_get("/receipts/{id}", self.show_receipt)
        router.add_get("/", self.to_control)
        router.add_get("/control/", self.control.show)
        router.add_get("/control/state", self.control.state)
        router.add_post("/control/{action}", self.control.act)
        router.add_route("*", "/v1/{path:.*}", self.call)
        return application

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def to_control(self, request: web.Request) -> web.Response:
        raise web.HTTPSeeOther("/control/")

    async def call(self, request: web.Request) -> web.Response:
        """One call of Stripe's API, with the faults that were asked for."""
        asked = Request(
            method=request.method,
            path=request.path.rstrip("/"),
            query=request.query_string,
            body=await request.read(),
            authorization=request.headers.get("Authorization", ""),
            idempotency_key=request.headers.get("Idempotency-Key"),
            id=new_id("req"),
        )
        fault = self._fault(asked)
        if fault.get("kind") == "rate_limit":
            answer = self.api.refuse(asked)
        else:
            answer = self.api.answer(asked, error_after=fault.get("kind") == "error_after_commit")
        if fault.get("kind") == "lose_answer":
            assert request.transport is not None  # noqa: S101  Told to the type checker.
            request.transport.abort()
        elif fault.get("kind") == "hang":
            with self.api.in_use(asked.idempotency_key):
                await asyncio.sleep(fault["seconds"])
        return web.Response(
            status=answer.status,
            text=json.dumps(answer.body, indent=2),
            content_type="application/json",
            headers=answer.headers,
        )

    def _fault(self, asked: Request) -> Json:
        """What is to go wrong with this call, if anything."""
        fault: Json = self.store.switch("call_fault") or {}
        if fault.get("count", 0) < 1 or not f"{asked.method} {asked.path}".startswith(fault["path"]):
            return {}
        with self.store.transaction():
            self.store.set_switch("call_fault", fault | {"count": fault["count"] - 1})
        return fault

    def _session(self, request: web.Request) -> Json:
        """The session of the address; one that has ended is told so. Raises an HTTP answer."""
        session = self.store.find("checkout.session", request.match_info["id"])
        if session is None:
            raise web.HTTPNotFound(text=pages.ended(None), content_type="text/html", headers=pages.HEADERS)
        if session["status"] != "open":
            raise web.HTTPGone(text=pages.ended(session), content_type="text/html", headers=pages.HEADERS)
        return session

    async def show_checkout(self, request: web.Request) -> web.Response:
        return self._page(self._session(request))

    def _page(self, session: Json, refusal: str = "") -> web.Response:
        return pages.html(pages.checkout(session, self.store.notes(session["id"])["lines"], refusal=refusal))

    async def act_on_checkout(self, request: web.Request) -> web.Response:
        form = await request.post()
        refusal = ""
        self.store.request = {"id": None, "idempotency_key": None}
        with self.store.transaction():
            session = self._session(request)
            match request.match_info["action"]:
                case "pay":
                    checkout.pay(self.store, session)
                case "decline":
                    error = checkout.pay(
                        self.store, session, behaviour=str(form.get("code") or "generic_decline"), last4="0002"
                    )
                    refusal = str(error)
                case "authenticate":
                    checkout.ask_for_authentication(self.store, session)
                    return web.Response(status=303, headers={"Location": f"/c/authenticate/{session['id']}"})
                case "later":
                    intent = checkout.pay_later(self.store, session)
                    self._decide_later(intent, str(form.get("outcome")), str(form.get("seconds")))
                case "abandon":
                    raise web.HTTPSeeOther(session["cancel_url"] or f"/c/pay/{session['id']}")
                case _:
                    raise web.HTTPNotFound
        return self._page(session, refusal) if refusal else go_on(session)

    def _decide_later(self, intent: Json, outcome: str, seconds: str) -> None:
        action = {"succeed": control.SUCCEED, "fail": control.FAIL}.get(outcome)
        if action is not None:
            self.store.plan(action, intent["id"], seconds=int(seconds) if seconds.isdecimal() else 10)

    async def show_receipt(self, request: web.Request) -> web.Response:
        charge = self.store.find("charge", request.match_info["id"])
        if charge is None or not charge["paid"]:
            raise web.HTTPNotFound(text=pages.ended(None), content_type="text/html", headers=pages.HEADERS)
        return pages.html(pages.receipt(charge))

    async def show_authentication(self, request: web.Request) -> web.Response:
        return pages.html(pages.authentication(self._session(request)))

    async def authenticate(self, request: web.Request) -> web.Response:
        passed = (await request.post()).get("passed") == "yes"
        self.store.request = {"id": None, "idempotency_key": None}
        with self.store.transaction():
            session = self._session(request)
            if not checkout.is_being_authenticated(self.store, session):
                return self._page(session)
            checkout.authenticate(self.store, session, passed=passed)
        return go_on(session) if passed else self._page(session, "Your bank could not tell that it is you. Try again.")


def go_on(session: Json) -> web.Response:
    """Send the customer to where the session wants them after paying."""
    address = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
    return web.Response(status=303, headers=pages.HEADERS | {"Location": address})


async def serve(
    simulator: Simulator, *, host: str, port: int, ready: Callable[[str], None], stop: Awaitable[object]
) -> None:
    """Serves, and delivers events, until `stop`."""
    runner = web.AppRunner(simulator.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    postman = None
    try:
        await web.TCPSite(runner, host, port).start()
        simulator.store.url = f"http://{host}:{runner.addresses[0][1]}"
        postman = asyncio.create_task(Postman(simulator.store, simulator.control.carry_out).work())
        ready(simulator.store.url)
        stopped = asyncio.ensure_future(stop)
        await asyncio.wait({stopped, postman}, return_when=asyncio.FIRST_COMPLETED)
        if postman.done():
            postman.result()  # It never ends by itself but by an error, which must be seen.
    finally:
        if postman is not None:
            postman.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await postman
        await runner.cleanup()
