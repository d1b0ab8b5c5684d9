"""What a gateway process tells Prometheus, and the only place that knows how.

Calls are counted once, at their end. Labels are the operator's own names (models, backends) and our own codes: never a
customer, a key or anything that a customer can write, so their number is bounded. What only PostgreSQL knows (the
backlog, the lag) is read by a loop of the process and told with its age: a scrape waits for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from billing.backlog import Backlog
from billing.chores import Chores
from billing.usage import Outcome, Record, Source

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

registry = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)

_calls = Counter("flint_calls", "Calls that are paid for.", ["model", "backend", "outcome"], registry=registry)
_free_calls = Counter("flint_free_calls", "Admitted calls that ended free.", ["model", "reason"], registry=registry)
_refusals = Counter("flint_refusals", "Calls that were never admitted.", ["status", "code"], registry=registry)
_tokens = Counter("flint_tokens", "Tokens of recorded calls.", ["model", "kind"], registry=registry)
_attempts = Counter(
    "flint_backend_attempts", "Attempts to have a backend serve.", ["backend", "model", "result"], registry=registry
)
_full = Counter("flint_backend_full", "Calls that found all slots of a backend taken.", ["backend"], registry=registry)
_slots = Gauge(
    "flint_backend_slots_in_use",
    "Slots of a backend with a cap that this process uses.",
    ["backend"],
    registry=registry,
)
_charge = Counter("flint_charge_picousd", "What customers pay, in 1e-12 USD.", ["backend", "model"], registry=registry)
_cost = Counter(
    "flint_upstream_cost_picousd",
    "What backends charge us, in 1e-12 USD, also for attempts that nobody pays.",
    ["backend", "model"],
    registry=registry,
)
_cost_unknown = Counter(
    "flint_upstream_cost_unknown",
    "Attempts that used tokens at a backend whose price nobody has entered.",
    ["backend", "model"],
    registry=registry,
)
_faults = Counter(
    "flint_backend_faults", "Attempts with something wrong in the answer.", ["backend", "fault"], registry=registry
)
_estimated = Counter(
    "flint_usage_estimated", "Calls whose backend sent no usage that can be true.", ["backend"], registry=registry
)
_open = Gauge("flint_breaker_open", "1 while it is left alone.", ["model", "backend", "why"], registry=registry)
_probes = Gauge(
    "flint_backend_probes",
    "Probes of workers, of all workers, since Redis was started or a day ago.",
    ["model", "backend", "result"],
    registry=registry,
)
_duration = Histogram(
    "flint_call_duration_seconds",
    "From admission to the end.",
    ["model", "backend"],
    buckets=SECONDS,
    registry=registry,
)
_first_token = Histogram(
    "flint_first_token_seconds",
    "From admission to the first event of a stream.",
    ["model", "backend"],
    buckets=SECONDS,
    registry=registry,
)
_promises = Gauge(
    "flint_promise_broken", "Rows that break it, as the last proof found.", ["promise"], registry=registry
)
_tasks = Gauge("flint_task_age_seconds", "Since it last did its work.", ["task"], registry=registry)
_intervals = Gauge("flint_task_interval_seconds", "How often it is due.", ["task"], registry=registry)
_clearing = Gauge(
    "flint_clearing_difference_cents",
    "What Stripe's balance has more than this account of the books, in US cents.",
    ["account", "part"],
    registry=registry,
)
_unexplained = Gauge(
    "flint_clearing_unexplained",
    "Objects older than an hour on which Stripe and this account of the books differ.",
    ["account"],
    registry=registry,
)
_compared = Gauge(
    "flint_clearing_age_seconds", "Since Stripe and the books were compared.", ["account"], registry=registry
)
_now = {
    name: Gauge(f"flint_{name}", text, registry=registry)
    for name, text in {
        "ready": "1 if this process takes calls.",
        "running_calls": "Calls that run in this process.",
        "unwritten_records": "Usage records of this process that wait for the database.",
        "backlog_age_seconds": "Age of what this process knows of the backlog; it grows while the database is away.",
        "settlement_lag_seconds": "Age of the oldest recorded call that is not charged, of all processes.",
        "unsettled_calls": "Recorded calls that are not charged, of all processes.",
        "holds_open": "Holds of all processes.",
        "holds_overdue": "Holds past their time: the sweeper does not run.",
        "silent_processes": "Gateway processes without a heartbeat that are not swept yet.",
        "late_records": "Records that came after their call was closed, and wait for a person.",
        "queue_age_seconds": "Since the last periodic message was sent that a worker has done; 5 s while all is well.",
        "promises_age_seconds": "Since the last proof of the books.",
        "stray_records": "Records in the DEFAULT partition.",
    }.items()
}


def count_call(record: Record, *, model: str) -> None:
    """A call that has left a record."""
    _calls.labels(model, record.backend, record.outcome).inc()
    _duration.labels(model, record.backend).observe(record.duration_ms / 1000)
    if record.first_token_ms is not None:
        _first_token.labels(model, record.backend).observe(record.first_token_ms / 1000)
    _charge.labels(record.backend, model).inc(record.charge)
    _tokens.labels(model, "input").inc(record.input_tokens)
    _tokens.labels(model, "cached_input").inc(record.cached_input_tokens)
    _tokens.labels(model, "output").inc(record.output_tokens)
    _tokens.labels(model, "reasoning").inc(record.reasoning_tokens)
    if record.source is Source.ESTIMATED and record.outcome is Outcome.COMPLETED:
        _estimated.labels(record.backend).inc()


def count_free_call(*, model: str, reason: str) -> None:
    """An admitted call whose hold was released."""
    _free_calls.labels(model, reason).inc()


def count_refusal(*, status: int, code: str) -> None:
    _refusals.labels(str(status), code).inc()


def count_attempt(*, backend: str, model: str, result: str, fault: str, tokens: int, cost: int | None) -> None:
    """`result` is one of `Attempt.Result`; `cost`, in pico-USD, is None where no price was entered."""
    _attempts.labels(backend, model, result).inc()
    if fault:
        _faults.labels(backend, fault).inc()
    if cost is not None:
        _cost.labels(backend, model).inc(cost)
    elif tokens:
        _cost_unknown.labels(backend, model).inc()


def count_full(*, backend: str) -> None:
    """A call that a backend had no slot for; it may have found one at another."""
    _full.labels(backend).inc()


def tell_breakers(*, open_ones: Iterable[tuple[str, str, str]], probes: Iterable[tuple[str, str, str, int]]) -> None:
    """Each with its model and its backend; then why it is open, or the result of probes and how many there were."""
    _open.clear()
    for model, backend, why in open_ones:
        _open.labels(model, backend, why).set(1)
    _probes.clear()
    for model, backend, result, count in probes:
        _probes.labels(model, backend, result).set(count)


def exposition(
    *,
    ready: bool,
    running: int,
    unwritten: int,
    slots: Mapping[str, int],
    backlog: Backlog | None,
    chores: Chores | None,
    read_at: float,
) -> bytes:
    """All of it, in Prometheus' text format. `slots` are those in use, by backend."""
    if chores is not None:
        _tell_chores(chores)
    _now["ready"].set(ready)
    _now["running_calls"].set(running)
    _now["unwritten_records"].set(unwritten)
    _slots.clear()  # A backend that has no cap any more is not told of.
    for backend, in_use in slots.items():
        _slots.labels(backend).set(in_use)
    _now["backlog_age_seconds"].set(time.monotonic() - read_at)
    if backlog is not None:
        _now["settlement_lag_seconds"].set(backlog.settlement_lag_seconds)
        _now["unsettled_calls"].set(backlog.unsettled_calls)
        _now["holds_open"].set(backlog.open_holds)
        _now["holds_overdue"].set(backlog.overdue_holds)
        _now["silent_processes"].set(backlog.silent_processes)
        _now["late_records"].set(backlog.late_records)
        _now["stray_records"].set(backlog.stray_records)
    return generate_latest(registry)


def _tell_chores(chores: Chores) -> None:
    _now["queue_age_seconds"].set(chores.queue_age)
    _now["promises_age_seconds"].set(chores.proof_age)
    for promise, broken in chores.broken_promises.items():
        _promises.labels(promise).set(broken)
    for task, age in chores.task_ages.items():
        _tasks.labels(task).set(age)
        _intervals.labels(task).set(chores.task_intervals[task])
    for clearing in chores.clearings:
        for part, cents in clearing.parts.items():
            _clearing.labels(clearing.account, part).set(cents)
        _unexplained.labels(clearing.account).set(clearing.unexplained)
        _compared.labels(clearing.account).set(clearing.age)
