"""Where Stripe tells us that something happened. It speaks to a machine: never HTML."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from django.conf import settings
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from structlog.contextvars import get_contextvars

from billing import tasks
from billing.payments import inbox, stripe_api

LONGEST_BODY = 1024 * 1024  # Stripe's events are some kilobytes.

logger = logging.getLogger(__name__)


@csrf_exempt
@require_POST
def stripe(request: HttpRequest) -> HttpResponse:
    body = request.read(LONGEST_BODY + 1)
    if len(body) > LONGEST_BODY:
        return _say(413, "too large")
    request_id = str(get_contextvars().get("request_id", ""))
    try:
        event_id = inbox.receive(
            body,
            signature=request.headers.get("Stripe-Signature"),
            livemode=settings.STRIPE_LIVEMODE,
            request_id=request_id,
            now=datetime.now(UTC),
        )
    except (stripe_api.Forged, inbox.Malformed, inbox.WrongMode) as refused:
        logger.warning("a webhook was refused: %s", type(refused).__name__)
        return _say(400, "refused")
    except DatabaseError:
        logger.exception("a webhook could not be stored")
        return _say(503, "not stored")
    _ring(event_id)
    return _say(200, "stored")


def _ring(event_id: str) -> None:
    try:
        tasks.work_stripe_event.apply_async(kwargs={"event_id": event_id}, retry=False, expires=60)
    except Exception as error:  # kombu raises transport errors of many kinds; none of them matters here.
        logger.warning("no doorbell for event %s (the sweep will find it): %s", event_id, error)


def _say(status: int, what: str) -> HttpResponse:
    return HttpResponse(f"{what}\n", status=status, content_type="text/plain")
