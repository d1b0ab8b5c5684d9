"""What Prometheus reads: exactly what happened, in its own format, for those who may read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from billing import books
from billing.chores import Chores, Clearing
from billing.models import PromiseCheck
from billing.tasks import check_books, settle_pending
from gateway import metrics
from tests.gateway import wire
from tests.gateway.conftest import CANARY_CREDENTIAL, INPUT_RATE, Lab, listed
from tests.gateway.customers import chat, customer
from tests.gateway.scripted import chunk
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

PROMISES = [promise.name for promise in books.PROMISES]
PROMPT = "canary-prompt-of-metrics"


@pytest.fixture(scope="module")
def web(stack: Stack, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A process that nobody else calls."""
    started = WebProcess(tmp_path_factory.mktemp("scraped") / "web.log")
    try:
        started.wait_until_ready()
        until(lambda: lab.of_closed_port in listed(started))
        yield started
    finally:
        started.stop()


def named(name: str, *labels: str) -> str:
    return f"{name}{{{','.join(sorted(labels))}}}"


def scraped(web: WebProcess, *labels: str) -> dict[str, float]:
    """The samples with one of these labels, as name{label values}, without the buckets."""
    answer = wire.ask(web, None, method="GET", path="/metrics")
    assert answer.status == 200
    return {
        named(sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if (set(labels) & set(sample.labels.values()) or not labels)
        and not sample.name.endswith(("_created", "_bucket"))
    }


def test_a_completed_call_is_counted_once_with_its_tokens(web: WebProcess, lab: Lab) -> None:
    alice, model = customer(), lab.of_two
    with wire.stream(web, alice.secret, chat(PROMPT, model=model)) as stream:
        stream.rest()
    record = alice.only_record()
    assert record.duration_ms is not None
    assert record.first_token_ms is not None
    told, backend = scraped(web, model), lab.first
    assert told == {
        named("flint_calls_total", model, backend, "completed"): 1,
        named("flint_backend_attempts_total", backend, model, "ok"): 1,
        named("flint_charge_picousd_total", model, backend): record.charge,
        named("flint_upstream_cost_unknown_total", model, backend): 1,
        named("flint_call_duration_seconds_count", model, backend): 1,
        named("flint_call_duration_seconds_sum", model, backend): record.duration_ms / 1000,
        named("flint_first_token_seconds_count", model, backend): 1,
        named("flint_first_token_seconds_sum", model, backend): record.first_token_ms / 1000,
        named("flint_tokens_total", model, "input"): record.input_tokens,
        named("flint_tokens_total", model, "cached_input"): record.cached_input_tokens,
        named("flint_tokens_total", model, "output"): record.output_tokens,
        named("flint_tokens_total", model, "reasoning"): record.reasoning_tokens,
    }


def test_a_call_that_no_backend_served_is_a_failed_attempt_and_free(web: WebProcess, lab: Lab) -> None:
    wire.ask(web, customer().secret, chat(PROMPT, model=lab.of_closed_port))
    told = scraped(web, lab.of_closed_port)
    assert told.pop(named("flint_free_calls_total", lab.of_closed_port, "model_unavailable")) == 1
    ((attempt, times),) = told.items()
    assert "no_connection" in attempt
    assert times == 1


def test_what_was_never_admitted_is_a_refusal(web: WebProcess) -> None:
    for _ in range(2):
        assert wire.ask(web, customer(pico=INPUT_RATE).secret, chat(PROMPT)).status == 402
    assert scraped(web, "insufficient_balance") == {named("flint_refusals_total", "402", "insufficient_balance"): 2}


def test_what_only_the_database_knows_is_told_with_its_age(web: WebProcess) -> None:
    until(lambda: scraped(web)["flint_backlog_age_seconds{}"] > 0)
    told = scraped(web)
    assert told["flint_ready{}"] == 1
    assert 0 <= told["flint_backlog_age_seconds{}"] < 15
    assert told["flint_settlement_lag_seconds{}"] >= 0
    assert told["flint_unwritten_records{}"] == 0
    assert told["process_resident_memory_bytes{}"] > 0


def test_what_the_schedule_sends_and_the_proof_of_the_books_are_told_with_their_age(web: WebProcess) -> None:
    """The worker of the tests has no beat: what is told of a task is what this test has sent."""
    sent_at = time.time()
    settle_pending.apply_async()
    check_books.apply_async()
    task, proof = "flint_task_age_seconds{billing.tasks.settle_pending}", "flint_promises_age_seconds{}"

    def fresh() -> dict[str, float]:
        told, since = scraped(web), time.time() - sent_at
        return told if told.get(task, since) < since and told[proof] < since else {}

    told = until(fresh, 25)
    assert told["flint_task_interval_seconds{billing.tasks.settle_pending}"] == 5
    assert 0 < told[task] <= told["flint_queue_age_seconds{}"] < time.time() - sent_at
    assert {name: told[f"flint_promise_broken{{{name}}}"] for name in PROMISES} == found_of(PROMISES)
    assert not [name for name in told if "settle_usage" in name]


def test_the_difference_between_stripe_and_the_books_is_told() -> None:
    parts = {"foreign": 4825, "fresh": 0, "unexplained": -100}
    chores = Chores({}, {}, inf, {}, inf, [Clearing("stripe_clearing", parts, unexplained=2, age=7.5)])
    rest: dict[str, Any] = {"ready": True, "running": 0, "unwritten": 0, "slots": {}, "backlog": None, "read_at": 0}
    lines = metrics.exposition(chores=chores, **rest).decode().splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("flint_clearing_"))
    for part, cents in parts.items():
        assert float(told[f'flint_clearing_difference_cents{{account="stripe_clearing",part="{part}"}}']) == cents
    assert float(told['flint_clearing_unexplained{account="stripe_clearing"}']) == 2
    assert float(told['flint_clearing_age_seconds{account="stripe_clearing"}']) == 7.5


def found_of(promises: list[str]) -> dict[str, int]:
    return {promise: PromiseCheck.objects.get(promise=promise).broken for promise in promises}


def test_the_cost_of_attempts_is_told_also_of_those_that_failed() -> None:
    labels = {"backend": "costly", "model": "m"}
    for result, cost, tokens in (("ok", 12, 4), ("silent", 30, 9), ("ok", None, 4), ("no_connection", None, 0)):
        metrics.count_attempt(**labels, result=result, fault="", tokens=tokens, cost=cost)
    assert metrics.registry.get_sample_value("flint_upstream_cost_picousd_total", labels) == 42
    assert metrics.registry.get_sample_value("flint_upstream_cost_unknown_total", labels) == 1


def test_a_running_call_is_told_while_it_runs(web: WebProcess, lab: Lab) -> None:
    alice = customer()
    assert scraped(web)["flint_running_calls{}"] == 0
    lab.scripted.play(chunk("Hello"), threading.Event())
    with wire.stream(web, alice.secret, chat(PROMPT, model=lab.of_script)) as stream:
        stream.read(1)
        assert scraped(web)["flint_running_calls{}"] == 1


def test_no_customer_no_key_and_no_prompt_is_told(web: WebProcess, lab: Lab) -> None:
    alice = customer()
    wire.ask(web, alice.secret, chat(PROMPT, model=lab.of_two))
    wire.ask(web, alice.secret, chat(PROMPT, model=PROMPT))
    told = wire.ask(web, None, method="GET", path="/metrics").body.decode()
    for canary in (PROMPT, alice.secret, alice.key.display, alice.account.name, CANARY_CREDENTIAL, "127.0.0.1"):
        assert canary not in told


def test_with_a_token_only_who_has_it_may_read(stack: Stack, tmp_path: Path) -> None:
    web = WebProcess(tmp_path / "web.log", METRICS_TOKEN="canary-token-of-prometheus")
    try:
        web.wait_until_ready()
        assert wire.ask(web, None, method="GET", path="/metrics").status == 404
        assert wire.ask(web, "canary-token-of-prometheuS", method="GET", path="/metrics").status == 404
        assert wire.ask(web, "canary-token-of-prometheus", method="GET", path="/metrics").status == 200
    finally:
        web.stop()
    assert "canary-token" not in web.log.read_text()
