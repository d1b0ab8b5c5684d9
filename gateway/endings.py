"""Step 7 of a call: the one usage record that it leaves, and the customer's last bytes, which go out after it."""

from __future__ import annotations

import logging

from django.http import HttpResponse

from billing import money
from billing.usage import Outcome, Record, Source, charge_within
from gateway import frames
from gateway.call_state import Call
from gateway.errors import GatewayError, KeyDisabled, Unavailable
from gateway.metering import usage_object

logger = logging.getLogger(__name__)

COST_HEADER = "x-flint-cost-usd"


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
        upstream_cost=call.cost_at(call.target, usage),
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
