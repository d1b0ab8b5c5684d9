"""The server's entry: /v1 goes to the gateway's lean road, everything else to the Django site."""

import asyncio
import logging
import os
import signal
from typing import Any

import structlog

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")
os.environ.setdefault("DATABASE_POOL", "true")  # The site's threads come and go; their connections stay.

from django.core.asgi import get_asgi_application

site = get_asgi_application()

import django.db  # noqa: E402
from asgiref.sync import sync_to_async  # noqa: E402
from django.conf import settings  # noqa: E402
from django.utils.crypto import constant_time_compare  # noqa: E402

from billing.payments import real_money  # noqa: E402  # Models need Django to be set up, which the line above does.
from flint import logs  # noqa: E402
from gateway.asgi import Gateway  # noqa: E402
from gateway.metrics import CONTENT_TYPE  # noqa: E402

ANSWER_SECONDS = 5  # How long a start waits for the database to say that this may be a production.

logger = logging.getLogger(__name__)
gateway = Gateway()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"].lstrip("/").partition("/")[0] == "v1":  # Of //v1/..., too: its errors are the API's.
        await gateway(scope, receive, send)
    elif scope["path"] in ("/livez", "/readyz"):
        await _health(scope["path"], send)
    elif scope["path"] == "/metrics":
        await _metrics(scope, send)
    else:
        await _site(scope, receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            insisting = asyncio.create_task(_insist_on_real_money())
            await asyncio.wait([insisting], timeout=ANSWER_SECONDS)
            if insisting.done() and (refusal := insisting.exception()):
                await send({"type": "lifespan.startup.failed", "message": str(refusal)})
                return
            insisting.add_done_callback(_leave_if_refused)
            await gateway.start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await gateway.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _insist_on_real_money() -> None:
    """Until the database answers: without it a process starts all the same, and takes no calls."""
    while True:
        try:
            await sync_to_async(_ask_for_real_money)()
            return
        except django.db.Error as silent:
            logger.warning("whether the books hold money of tests is not known yet: %s", type(silent).__name__)
            await asyncio.sleep(1)


def _ask_for_real_money() -> None:
    try:
        real_money.insist()
    finally:
        django.db.connection.close()  # Back to the pool: this thread may never ask again.


def _leave_if_refused(insisting: asyncio.Task[None]) -> None:
    if not insisting.cancelled() and (refusal := insisting.exception()):
        logger.critical("%s", refusal)
        os.kill(os.getpid(), signal.SIGTERM)


async def _site(scope: Any, receive: Any, send: Any) -> None:
    """As on the other road, each request has an id: in its answer, and in every line that is logged on the way."""
    request_id = logs.new_request_id()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)

    async def send_with_id(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
        await send(message)

    await site(scope, receive, send_with_id)


async def _health(path: str, send: Any) -> None:
    """/livez: the process answers. /readyz: it can take calls."""
    well = path == "/livez" or gateway.ready
    await _tell(send, 200 if well else 503, b"ok\n" if well else b"not ready\n")


async def _metrics(scope: Any, send: Any) -> None:
    """For Prometheus, not for the world: to others it is not there. Behind a proxy everybody's address is the proxy's,
    so an address alone opens nothing in production.
    """
    authorization = dict(scope["headers"]).get(b"authorization", b"")
    if settings.METRICS_TOKEN:
        allowed = constant_time_compare(authorization, f"Bearer {settings.METRICS_TOKEN}")
    else:
        allowed = not settings.PRODUCTION and bool(scope["client"]) and scope["client"][0] in ("127.0.0.1", "::1")
    if allowed:
        await _tell(send, 200, gateway.metrics(), CONTENT_TYPE.encode())
    else:
        await _tell(send, 404, b"not found\n")


async def _tell(send: Any, status: int, body: bytes, content_type: bytes = b"text/plain") -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
