"""Steps 6 and 7 of a call: relay it to a backend, meter it, and end its hold in exactly one way.

**Accepted** means: the backend's first well-formed event or body. A failure of the backend's or ours before that is
free: the hold is released. Whatever happens later leaves one usage record, durable before the customer gets the last
bytes. A customer who hangs up once the request was sent pays the prompt at the fair estimate and the tokens produced;
after the last token, the exact usage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from structlog.contextvars import bind_contextvars

from apikeys.keys import KeyFacts
from billing import money
from billing.holds import Checkpoint
from billing.pricing import Price, Usage
from billing.usage import Outcome, Record, Source, charge_within
from gateway import answers, frames, metrics, pulse, refusals, requests, upstream
from gateway.answers import Chunks
from gateway.attempts import Journal, Made, Result
from gateway.breaker import Breaker
from gateway.choices import BackendFailed
from gateway.directory import Model, Target
from gateway.errors import BackendUnavailable, GatewayError, KeyDisabled, Unavailable
from gateway.exchange import Exchange
from gateway.faults import Fault
from gateway.frames import Frames
from gateway.limits import Lease
from gateway.metering import Meter, usage_object
from gateway.requests import Parsed
from gateway.slots import RETRY_SECONDS, Slots
from gateway.upstream import PromptRefused, Upstream

logger = logging.getLogger(__name__)

COST_HEADER = "x-flint-cost-usd"
ATTEMPTS = 3
USAGE_SECONDS = 1  # A backend that has finished gets this long to send its usage to a customer who hung up,
GOODBYE_SECONDS = 3  # and this long, for one who waits, to send it and to end the stream.
_ANSWERED = frozenset({Result.OK, Result.BROKEN, Result.GARBAGE})  # With a 200.


@dataclass(frozen=True, slots=True)
class Backends:
    """How they are reached, and where it is noted how they do."""

    client: Upstream
    journal: Journal
    breaker: Breaker
    slots: Slots


@dataclass(slots=True)
class Call:
    """One admitted call, from its hold to its end."""

    exchange: Exchange
    key: KeyFacts
    parsed: Parsed
    model: Model
    price: Price
    held: int
    lease: Lease
    meter: Meter
    admitted_at: datetime
    target: Target | None = None
    attempt: int = 0
    sent: bool = False
    accepted: bool = False
    stopped: Outcome | None = None
    first_token_ms: int | None = None
    answer: dict[str, Any] | None = None
    frames: Frames = field(init=False)
    chunks: Chunks = field(init=False)
    _started: float = field(default_factory=time.monotonic)
    waiting: asyncio.Timeout | None = None  # For the first event of a backend, while another could be asked.
    _scope: asyncio.Timeout | None = None
    _hastened: bool = False

    def __post_init__(self) -> None:
        request = self.parsed.request
        self.frames = Frames(request, call_id=self.id, model=self.model.public_id, admitted_at=self.admitted_at)
        self.chunks = Chunks(request)

    @property
    def id(self) -> UUID:
        return self.exchange.call_id

    @property
    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self._started) * 1000)

    def stop(self, outcome: Outcome) -> None:
        """End the call now, for a reason of ours."""
        self.stopped = outcome
        self.interrupt()

    def interrupt(self) -> None:
        """The customer is gone, or we must go. A backend that has finished may still send its usage."""
        if self._scope is not None and not self._scope.expired():
            grace = USAGE_SECONDS if self.meter.finished and self.meter.reported is None else 0
            self._scope.reschedule(asyncio.get_running_loop().time() + grace)

    def hasten(self) -> None:
        """The answer is complete: what is left of the stream may not take long."""
        if self._scope is not None and not self._hastened:
            self._hastened = True
            self._scope.reschedule(asyncio.get_running_loop().time() + GOODBYE_SECONDS)

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Bounds the call in time; inside, `interrupt` raises TimeoutError out of whatever is waited for."""
        async with asyncio.timeout(settings.GATEWAY_LONGEST_CALL_SECONDS) as self._scope:
            self.exchange.on_close = self.interrupt
            try:
                if self.exchange.closed or self.stopped is not None:
                    raise TimeoutError  # It happened before the call was admitted, so nothing was sent yet.
                yield
            finally:
                self._scope = None

    def mark_sent(self) -> None:
        self.sent = True

    def accept(self) -> None:
        """No other backend will be asked, so a large body makes room for others while this call goes on."""
        self.accepted = True
        if self.waiting is not None:
            self.waiting.reschedule(None)
        self.parsed.sent()
        self.exchange.forget_body()

    async def open_stream(self) -> None:
        if not self.exchange.streaming:
            await self.exchange.start_stream(self.lease.headers)

    def checkpoint(self) -> Checkpoint | None:
        """What is owed so far, once the backend has accepted."""
        if not self.accepted or self.target is None:
            return None
        usage = self.meter.usage()
        return Checkpoint(self.id, self.target.backend, self.attempt, usage.input_tokens, usage.output_tokens)


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
    raise _broken(outcome, durable=True) if outcome is Outcome.KEY_DISABLED else unavailable


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
            await _noted(call, target, backends, is_last=target is targets[-1] or call.attempt == ATTEMPTS)
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


async def _noted(call: Call, target: Target, backends: Backends, *, is_last: bool) -> None:
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
            upstream_cost=_cost(call, target, worked),
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


def _cost(call: Call, target: Target, usage: Usage) -> int | None:
    """What the backend charges us, by its price at the admission; None where we do not know."""
    price = target.price(call.admitted_at)
    return price.charge(usage) if price else None


def _first_token_seconds(call: Call, target: Target, *, is_last: bool) -> float | None:
    """How long a stream may take to begin: as its backend is known, or less while another one is left."""
    if not call.parsed.request.streamed:
        return None
    return target.first_token_seconds or (None if is_last else settings.GATEWAY_FIRST_TOKEN_SECONDS)


async def _hurried(call: Call, target: Target, backends: Backends, seconds: float | None) -> None:
    """An attempt that is given up unless it begins to answer in time."""
    try:
        async with asyncio.timeout(seconds) as call.waiting:
            await _attempt(call, target, backends)
    except TimeoutError:
        raise BackendFailed(f"{target.backend}: no first token", result=Result.SILENT, timed_out=True) from None
    finally:
        call.waiting = None


async def _attempt(call: Call, target: Target, backends: Backends) -> None:
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


def record_of(call: Call, outcome: Outcome) -> Record:
    """The usage record of an ended call."""
    assert call.target is not None  # noqa: S101  # It was sent somewhere, else it would be free.
    usage = call.meter.usage()
    exact = usage is call.meter.reported
    if outcome is Outcome.COMPLETED and not exact and call.meter.fault:
        what = call.meter.fault.label
        logger.warning("call %s: backend %s sent %s, so tokens were estimated", call.id, call.target.backend, what)
    charge, clamped = charge_within(call.held, call.price, usage)
    return Record(
        id=call.id,
        account_id=call.key.account_id,
        api_key_id=call.key.key_id,
        model_id=call.model.id,
        price_version_id=call.price.version_id,
        backend=call.target.backend,
        attempt=call.attempt,
        streamed=call.parsed.request.streamed,
        outcome=outcome,
        source=Source.BACKEND if exact else Source.ESTIMATED,
        finish_reason=call.meter.finish_reason,
        admitted_at=call.admitted_at,
        first_token_ms=call.first_token_ms,
        duration_ms=call.elapsed_ms,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        held=call.held,
        charge=charge,
        clamped=clamped,
        upstream_cost=_cost(call, call.target, usage),
    )


async def finish(call: Call, record: Record, *, durable: bool) -> HttpResponse | None:
    """The last bytes, after the record: the usage and [DONE], the JSON answer, or what went wrong."""
    well = record.outcome is Outcome.COMPLETED and durable
    if call.exchange.streaming:
        broken = None if well else frames.failure(_broken(record.outcome, durable=durable))
        await call.exchange.end_stream(broken or last_bytes(call, record))
        return None
    if call.exchange.closed:
        return None
    if not well:
        raise _broken(record.outcome, durable=durable)
    headers = call.lease.headers | {COST_HEADER: money.usd(record.charge)}
    return HttpResponse(last_bytes(call, record), content_type="application/json", headers=headers)


def last_bytes(call: Call, record: Record) -> bytes:
    """What a completed call has still to send: the JSON answer, or the last events of a stream."""
    usage = usage_object(call.meter) | {"cost": money.usd(record.charge)}
    return call.frames.ending(usage) if call.answer is None else call.frames.whole(call.answer, usage)


def _broken(outcome: Outcome, *, durable: bool) -> GatewayError:
    """A repeat would be a second call with a second charge, so clients are told not to make it by themselves."""
    if not durable:
        return Unavailable("The answer is complete, but could not be recorded in time.", retryable=False)
    if outcome is Outcome.KEY_DISABLED:
        return KeyDisabled()
    if outcome is Outcome.SERVER_STOPPED:
        return Unavailable("This server is being restarted; the answer ends here.", retryable=False)
    return Unavailable("The model's backend failed; the answer ends here.", retryable=False)
