"""Step 6 of a call: ask one target after the other until one answers, and say how the call ended.

**Accepted** means: the backend's first well-formed event or body. A failure of the backend's or ours before that is
free: the hold is released. Whatever happens later leaves one usage record (`gateway/endings.py`). A customer who hangs
up once the request was sent pays the prompt at the fair estimate and the tokens produced; after the last token, the
exact usage.
"""

from __future__ import annotations

import logging

from django.conf import settings
from structlog.contextvars import bind_contextvars

from billing.usage import Outcome
from gateway import forwarding, pulse, refusals
from gateway.answers import Chunks
from gateway.call_state import Call
from gateway.choices import BackendFailed
from gateway.directory import Target
from gateway.errors import BackendUnavailable, KeyDisabled
from gateway.forwarding import Backends
from gateway.slots import RETRY_SECONDS
from gateway.upstream import PromptRefused

logger = logging.getLogger(__name__)

ATTEMPTS = 3


async def run(call: Call, targets: list[Target], backends: Backends) -> Outcome | None:
    """Relay the call; a stream's content goes out on the way. Returns how it ended; None means free.

    Raises GatewayError where no content was sent to the customer yet and the call is free.
    """
    outcome, unavailable = Outcome.COMPLETED, BackendUnavailable()
    try:
        async with call.interruptible(), pulse.kept_alive(call):
            await _attempts(call, targets, backends)
    except TimeoutError:
        outcome = _interrupted(call)
        unavailable = BackendUnavailable(timed_out=outcome is Outcome.BACKEND_FAILED)
    except BackendFailed as failure:
        logger.warning("call %s: backend failed: %s", call.id, failure)
        unavailable = BackendUnavailable(failure.retry_after, timed_out=failure.timed_out)
        # One that failed to say goodbye after its last token still gave the whole answer.
        outcome = Outcome.COMPLETED if call.meter.finished else Outcome.BACKEND_FAILED
    except PromptRefused as refused:
        logger.info("call %s: the prompt was refused: %s", call.id, refusals.kind(refused.words))
        raise refusals.explained(refused.words, call.parsed, context_tokens=call.model.context_tokens) from None
    except Exception:
        if not call.accepted:
            raise
        # A defect of ours, after the customer got something: the call still ends in its one record.
        logger.exception("call %s broke", call.id)
        outcome = Outcome.BACKEND_FAILED
    if call.accepted or (call.sent and outcome is Outcome.CLIENT_CLOSED):
        return outcome
    if outcome is Outcome.CLIENT_CLOSED:
        return None
    raise KeyDisabled() if outcome is Outcome.KEY_DISABLED else unavailable


def _interrupted(call: Call) -> Outcome:
    if call.meter.finished:
        return Outcome.COMPLETED
    if call.exchange.closed:
        return Outcome.CLIENT_CLOSED
    if call.stopped is not None:
        return call.stopped
    logger.warning("call %s took too long", call.id)
    return Outcome.BACKEND_FAILED


async def _attempts(call: Call, targets: list[Target], backends: Backends) -> None:
    """Try one target after the other until one accepts. Raises BackendFailed, PromptRefused."""
    failure = BackendFailed("no backend serves this model")
    for target in targets:
        if call.attempt == ATTEMPTS or call.elapsed_ms > settings.GATEWAY_FAILOVER_SECONDS * 1000:
            break
        if not await backends.slots.take(target.backend, call.id):
            if not call.attempt:
                failure = BackendFailed(f"{target.backend}: all its slots are taken", retry_after=RETRY_SECONDS)
            continue
        try:
            if not backends.breaker.enter(call.model.id, target.backend, call.id):
                continue
            call.attempt, call.target = call.attempt + 1, target
            bind_contextvars(backend=target.backend, attempt=call.attempt)
            is_last = target is targets[-1] or call.attempt == ATTEMPTS
            await forwarding.attempt(call, target, backends, is_last=is_last)
        except BackendFailed as error:
            if call.accepted:
                raise
            logger.warning("call %s attempt %d: %s", call.id, call.attempt, error)
            failure = error
            call.sent = False
            call.chunks = Chunks(call.parsed.request, opened=call.exchange.streaming)
        else:
            return
        finally:
            backends.slots.give_back(target.backend, call.id)
    raise failure
