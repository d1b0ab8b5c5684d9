"""The life of one call, from the parsed request to its settled end.

    limit -> reserve -> relay -> record -> last bytes            (settlement follows by itself)

Whatever happens, the hold ends once: in a record, or released for a reason. What cannot be finished here, because this
process or the database dies, the heartbeat or the sweeper finishes.
"""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.http import HttpResponse
from structlog.contextvars import bind_contextvars

from apikeys.keys import KeyFacts
from billing.ledger import Ask
from billing.pricing import Price
from billing.usage import Outcome, Record
from gateway import endings, errors, frames, idempotency, metering, metrics, relay, routing
from gateway.call_state import Call
from gateway.chat import ChatCompletionRequest
from gateway.completions import CompletionRequest
from gateway.directory import Model, Target
from gateway.embeddings import EmbeddingRequest
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    InsufficientBalance,
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    WrongModel,
)
from gateway.exchange import Exchange
from gateway.idempotency import Claim, Kept
from gateway.metering import Meter
from gateway.process import GatewayProcess
from gateway.requests import Parsed, Request

HOLD_GRACE_SECONDS = 60
FORMS: tuple[type[Request], ...] = (ChatCompletionRequest, CompletionRequest, EmbeddingRequest)
SERVED_AT = {kind: form.ENDPOINT.path for form in FORMS for kind in form.ENDPOINT.sells}


async def serve(process: GatewayProcess, exchange: Exchange, key: KeyFacts, parsed: Parsed) -> HttpResponse | None:
    """Answer the call; None means that everything was sent already. Raises GatewayError where nothing was sent."""
    if not await process.becomes_ready():
        raise Unavailable("This server cannot take calls at the moment. Please try again.")
    # The id says when the call was admitted, to the millisecond; so does its record, its price and its bill.
    admitted_at = datetime.fromtimestamp((exchange.call_id.int >> 80) / 1000, UTC)
    offer = _on_sale(process, key, parsed, admitted_at)
    bind_contextvars(call_id=str(exchange.call_id), model=parsed.request.model)
    claim = await _claim_for(exchange, key, parsed)
    call = await _limited(process, exchange, key, parsed, *offer, admitted_at)
    if claim is None:
        return await _serve(process, call, None)
    if kept := await _claimed(process, call, claim):
        return await _repeat(call, kept)
    exchange.on_frame = claim.add
    try:
        return await _serve(process, call, claim)
    finally:
        await process.idempotency.free(claim)


async def _claim_for(exchange: Exchange, key: KeyFacts, parsed: Parsed) -> Claim | None:
    idempotency_key = exchange.headers.get("Idempotency-Key")
    if idempotency_key is None:
        return None
    return await idempotency.claim_for(parsed, key=idempotency_key, account_id=key.account_id, call_id=exchange.call_id)


async def _claimed(process: GatewayProcess, call: Call, claim: Claim) -> Kept | None:
    """The answer of the call that had the key before. A repeat counts as a request, but uses no tokens."""
    try:
        kept = await process.idempotency.claim(claim)
    except BaseException:
        await process.limits.give_back(call.lease, refused=True)
        raise
    if kept is not None:
        await process.limits.give_back(call.lease, used_tokens=0)
    return kept


async def _repeat(call: Call, kept: Kept) -> HttpResponse | None:
    """The first answer, as it was."""
    headers = call.lease.headers | {"Idempotency-Replayed": "true", endings.COST_HEADER: "0"}
    if not kept.streamed:
        return HttpResponse(kept.answer, content_type="application/json", headers=headers)
    await call.exchange.start_stream(headers)
    await call.exchange.end_stream(kept.answer)
    return None


async def _serve(process: GatewayProcess, call: Call, claim: Claim | None) -> HttpResponse | None:
    exchange = call.exchange
    targets = await _targets(process, call)
    await _admit(process, call)
    try:
        outcome = await relay.run(call, targets, process.backends)
    except Exception as error:
        await _end_free(process, call, reason=error.code if isinstance(error, GatewayError) else "our_error")
        if not exchange.streaming:
            raise
        # A keep-alive has opened the stream, so the refusal cannot have a status of its own any more.
        await exchange.end_stream(frames.failure(errors.translate(error, request_id=exchange.id)))
        return None
    if outcome is None:
        await _end_free(process, call, reason="client_closed")
        return None
    record = endings.record_of(call, outcome)
    metrics.count_call(record, model=call.model.public_id)
    # Before the record: a repeat must find the answer of a call that is charged.
    await _keep(process, call, record, claim)
    durable = await process.recorder.record(record)
    process.running.pop(call.id, None)
    await _keep(process, call, record, claim)  # If the database was away before.
    await process.limits.give_back(call.lease, used_tokens=record.input_tokens + record.output_tokens)
    return await endings.finish(call, record, durable=durable)


async def _targets(process: GatewayProcess, call: Call) -> list[Target]:
    """Whom to ask, in this order. Raises BackendUnavailable where nobody would serve the call."""
    conversation = routing.conversation(call.parsed, account_id=call.key.account_id)
    targets = routing.in_order(process.directory.targets.get(call.model.id, ()), conversation)
    try:
        return process.slots.sift(process.breaker.sift(call.model.id, targets))
    except BaseException:
        await process.limits.give_back(call.lease, refused=True)
        raise


async def _keep(process: GatewayProcess, call: Call, record: Record, claim: Claim | None) -> None:
    if claim is not None and record.outcome is Outcome.COMPLETED and not claim.kept:
        answer = bytes(claim.frames) + endings.last_bytes(call, record)
        await process.idempotency.keep(claim, streamed=call.exchange.streaming, answer=answer)


def _on_sale(process: GatewayProcess, key: KeyFacts, parsed: Parsed, at: datetime) -> tuple[Model, Price]:
    name = parsed.request.model
    model = process.directory.models.get(name)
    price = process.directory.schedule.in_force(model.id, key.account_id, at) if model else None
    if model is None or price is None:
        raise ModelNotFound(f"The model `{name}` does not exist. GET /v1/models lists those that do.", param="model")
    if model.type not in parsed.request.ENDPOINT.sells:
        url = f"/v1{SERVED_AT[model.type]}"
        raise WrongModel(f"`{name}` is a model of the type {model.type}: call it at {url}.", param="model")
    if parsed.request.output_limit > model.max_output_tokens:
        raise InvalidRequest(
            f"max_tokens is {parsed.request.output_limit}, but {name} writes at most {model.max_output_tokens}.",
            param="max_tokens",
        )
    if metering.input_least(parsed) > model.context_tokens * parsed.request.prompts:
        raise ContextLengthExceeded(context_tokens=model.context_tokens, param=parsed.prompt_name)
    return model, price


async def _limited(
    process: GatewayProcess,
    exchange: Exchange,
    key: KeyFacts,
    parsed: Parsed,
    model: Model,
    price: Price,
    admitted_at: datetime,
) -> Call:
    """The call, once it has passed the rate limits."""
    estimate = metering.input_estimate(parsed, family=model.family, context_tokens=model.context_tokens)
    output = metering.output_bound(parsed)
    bound = metering.input_bound(parsed, context_tokens=model.context_tokens)
    held = price.ceiling(input_tokens=bound, output_tokens=output)
    # Last, so that nothing can fail between the lease and the call that gives it back.
    lease = await process.limits.take(key, call_id=exchange.call_id, tokens=estimate + output)
    return Call(
        exchange=exchange,
        key=key,
        parsed=parsed,
        model=model,
        price=price,
        held=held,
        lease=lease,
        meter=Meter(
            input_estimate=estimate,
            output_bound=output,
            context_tokens=model.context_tokens,
            prompts=parsed.request.prompts,
            choices=parsed.request.choices,
        ),
        admitted_at=admitted_at,
    )


async def _admit(process: GatewayProcess, call: Call) -> None:
    ask = Ask(
        id=call.id,
        account_id=call.key.account_id,
        api_key_id=call.key.key_id,
        model_id=call.model.id,
        price_version_id=call.price.version_id,
        amount=call.held,
        streamed=call.parsed.request.streamed,
        owner=process.boot,
        admitted_at=call.admitted_at,
        lifetime_seconds=settings.GATEWAY_LONGEST_CALL_SECONDS + HOLD_GRACE_SECONDS,
    )
    process.running[call.id] = call
    try:
        await process.admission.admit(ask)
        call.exchange.admitted = True
    except BaseException as refusal:
        process.running.pop(call.id, None)
        await process.limits.give_back(call.lease, refused=True)
        if isinstance(refusal, InsufficientBalance):
            raise _what_would_fit(call, refusal) from None
        raise


def _what_would_fit(call: Call, refusal: InsufficientBalance) -> InsufficientBalance:
    affordable = metering.affordable_output(
        call.parsed, call.price, context_tokens=call.model.context_tokens, available=refusal.available
    )
    return InsufficientBalance(needed=call.held, available=refusal.available, affordable=affordable)


async def _end_free(process: GatewayProcess, call: Call, *, reason: str) -> None:
    metrics.count_free_call(model=call.model.public_id, reason=reason)
    await process.release(call, reason=reason)
    await process.limits.give_back(call.lease, refused=True)
