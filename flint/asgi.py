"""The server's entry: /v1 goes to the gateway's lean road, everything else to the Django site."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")
os.environ.setdefault("DATABASE_POOL", "true")  # The site's threads come and go; their connections stay.

from django.core.asgi import get_asgi_application

site = get_asgi_application()

from gateway.asgi import Gateway  # noqa: E402  # Its models need Django to be set up, which the line above does.

gateway = Gateway()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"].lstrip("/").partition("/")[0] == "v1":  # Of //v1/..., too: its errors are the API's.
        await gateway(scope, receive, send)
    elif scope["path"] in ("/livez", "/readyz"):
        await _health(scope["path"], send)
    else:
        await site(scope, receive, send)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await gateway.start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await gateway.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _health(path: str, send: Any) -> None:
    """/livez: the process answers. /readyz: it can take calls."""
    well = path == "/livez" or gateway.ready
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200 if well else 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n" if well else b"not ready\n"})
