"""One attempt of a call at one target: forward it, pass on and meter what comes, and write down what became of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings

from billing.pricing import Usage
from gateway import answers, metrics, requests, upstream
from gateway.attempts import Journal, Made, Result
from gateway.breaker import Breaker
from gateway.call_state import Call
from gateway.choices import BackendFailed
from gateway.directory import Target
from gateway.faults import Fault
from gateway.slots import Slots
from gateway.upstream import PromptRefused, Upstream

logger = logging.getLogger(__name__)

_ANSWERED = frozenset({Result.OK, Result.BROKEN, Result.GARBAGE})  # With a 200.


@dataclass(frozen=True, slots=True)
class Backends:
    """How they are reached, and where it is noted how they do."""

    client: Upstream
    journal: Journal
    breaker: Breaker
    slots: Slots


async def attempt(call: Call, target: Target, backends: Backends, *, is_last: bool) -> None:
    """One attempt, and what became of it. Raises what it raises."""
    started_at, before_ms = datetime.now(UTC), call.elapsed_ms
    result, status, retry_after = Result.LEFT, None, None
    fault: Fault | None = None
    try:
        await _hurried(call, target, backends, _first_token_seconds(call, target, is_last=is_last))
        result = Result.OK
    except BackendFailed as failure:
        result, status, retry_after, fault = failure.result, failure.status, failure.retry_after, failure.fault
        raise
    except PromptRefused as refused:
        result, status = Result.PROMPT_REFUSED, refused.status
        raise
    finally:
        backends.breaker.ended(
            call.model.id,
            target.backend,
            call.id,
            account_id=call.key.account_id,
            result=result,
            status=status,
            retry_after=retry_after,
        )
        fault = fault or _fault(call, result)
        result = Result.OK if call.meter.finished else result
        worked, exact = _worked(call, result)
        made = Made(
            call_id=call.id,
            number=call.attempt,
            model_id=call.model.id,
            backend=target.backend,
            started_at=started_at,
            result=result,
            fault=fault or "",
            status=200 if call.accepted or result in _ANSWERED else status,
            first_event_ms=None if call.first_token_ms is None else call.first_token_ms - before_ms,
            duration_ms=call.elapsed_ms - before_ms,
            input_tokens=worked.input_tokens,
            output_tokens=worked.output_tokens,
            estimated=not exact,
            upstream_cost=call.cost_at(target, worked),
        )
        metrics.count_attempt(
            backend=target.backend,
            model=call.model.public_id,
            result=result,
            fault=made.fault,
            tokens=made.input_tokens + made.output_tokens,
            cost=made.upstream_cost,
        )
        backends.journal.note(made)


def _fault(call: Call, result: Result) -> Fault | None:
    """What is wrong with an attempt that did not fail by itself."""
    left = result is Result.LEFT and not call.exchange.closed and call.stopped is None
    if call.meter.overrun or (left and call.meter.finished):
        return Fault.ENDLESS
    if left:
        return Fault.TOO_LONG
    return call.meter.fault if result is Result.OK else None


def _worked(call: Call, result: Result) -> tuple[Usage, bool]:
    """What the backend may charge us for, and whether it said so itself."""
    if call.accepted:
        usage = call.meter.usage()
        return usage, usage is call.meter.reported
    # Who is left in silence has perhaps read the prompt; who refused has not.
    begun = call.sent and result in (Result.SILENT, Result.LEFT)
    return Usage(call.meter.input_estimate if begun else 0, 0), False


def _first_token_seconds(call: Call, target: Target, *, is_last: bool) -> float | None:
    """How long a stream may take to begin: as its backend is known, or less while another one is left."""
    if not call.parsed.request.streamed:
        return None
    return target.first_token_seconds or (None if is_last else settings.GATEWAY_FIRST_TOKEN_SECONDS)


async def _hurried(call: Call, target: Target, backends: Backends, seconds: float | None) -> None:
    """An attempt that is given up unless it begins to answer in time."""
    try:
        async with asyncio.timeout(seconds) as call.waiting:
            await _forward(call, target, backends)
    except TimeoutError:
        raise BackendFailed(f"{target.backend}: no first token", result=Result.SILENT, timed_out=True) from None
    finally:
        call.waiting = None


async def _forward(call: Call, target: Target, backends: Backends) -> None:
    request, began_ms = call.parsed.request, call.elapsed_ms
    async with backends.client.open(
        target,
        request.ENDPOINT.path,
        requests.forwarded(call.parsed, backend_model=target.backend_model, dialect=target.dialect),
        call_id=call.id,
        attempt=call.attempt,
        patience=(target.idle_seconds or settings.GATEWAY_IDLE_SECONDS)
        if request.streamed
        else settings.GATEWAY_ANSWER_SECONDS,
        on_sent=call.mark_sent,
    ) as response:
        if not request.streamed:
            call.answer = answers.whole(await upstream.answer(response), request)
            call.accept()
            backends.breaker.accepted(call.model.id, target.backend, call.id, first_token_ms=None)
            call.meter.see_answer(call.answer)
            return
        async for event in upstream.events(response):
            chunk = call.chunks.mend(event)
            call.meter.see_chunk(chunk)
            if not call.accepted:
                call.accept()
                call.first_token_ms = call.elapsed_ms
                waited_ms = call.first_token_ms - began_ms
                backends.breaker.accepted(call.model.id, target.backend, call.id, first_token_ms=waited_ms)
                await call.open_stream()
            if chunk["choices"]:
                await call.exchange.send_frame(call.frames.chunks(chunk["choices"]))
            if call.meter.complete:
                call.hasten()
            if call.meter.overrun:
                await _cut_off(call)
                return
    if not call.meter.finished:
        result = Result.BROKEN if call.accepted else Result.GARBAGE
        raise BackendFailed(
            f"{target.backend}: the stream ended without a finish", result=result, fault=Fault.NO_FINISH
        )


async def _cut_off(call: Call) -> None:
    """End an answer that goes on and on. The hold covers what was asked for, and nobody pays more than that."""
    logger.warning("call %s attempt %d: the backend does not keep to max_tokens", call.id, call.attempt)
    pieces = call.chunks.cut_off()
    call.meter.see_chunk({"choices": pieces, "usage": None})
    if pieces:
        await call.exchange.send_frame(call.frames.chunks(pieces))
