"""A backend never has more calls at the same time than its cap, whatever becomes of them; the others get the rest."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from django.db import transaction

from billing.models import LanguageModel
from gateway.models import Attempt, Backend
from gateway.slots import LEASE_SECONDS, MICRO, REDIS_KEY
from tests import factories
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.conftest import listed, priced_model, serve
from tests.gateway.customers import Customer, all_at_once, chat, customer
from tests.gateway.processes import RECOVERY_SECONDS, web_process
from tests.gateway.scripted import DONE, ScriptedBackend, chunk, usage
from tests.gateway.test_metrics import named, scraped
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

HEARD_SECONDS = 3.0  # Two are promised; the rest is for a busy machine.
CROWD = 10  # At each process.
WORK_SECONDS = 0.3  # Long enough for calls to meet, on a busy machine too.
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


class CountingBackend(ThreadingHTTPServer):
    """Answers, or fails with its `status`, after some work; counts how many calls it works on at the same time."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.status = 200
        self.calls = self.now = self.most = 0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def work(self) -> None:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(WORK_SECONDS)
        with self._lock:
            self.now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        backend = cast(CountingBackend, self.server)
        self.rfile.read(int(self.headers["Content-Length"]))
        backend.work()
        body = json.dumps(ANSWER).encode()
        self.send_response(backend.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def counting() -> Iterator[CountingBackend]:
    with CountingBackend() as backend:
        yield backend
        backend.shutdown()


@pytest.fixture
def spare() -> Iterator[CountingBackend]:
    with CountingBackend() as backend:
        yield backend
        backend.shutdown()


@pytest.fixture
def scripted() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.stop()


class Routes:
    """A model at some backends, each after the one before it; the first has a cap. All `webs` know of them."""

    def __init__(self, webs: list[WebProcess], cap: int | None, *base_urls: str) -> None:
        self.webs = webs
        self.backends = [factories.unique("capped") for _ in base_urls]
        with transaction.atomic():
            self.model: LanguageModel = priced_model()
            for priority, (name, base_url) in enumerate(zip(self.backends, base_urls, strict=True)):
                serve(name, base_url, self.model, priority=priority)
            self.set_cap(cap)
        for web in webs:
            until(lambda web=web: self.model.public_id in listed(web))  # type: ignore[misc]

    @property
    def slots(self) -> str:
        return REDIS_KEY.format(self.backends[0])

    def set_cap(self, cap: int | None) -> None:
        Backend.objects.filter(name=self.backends[0]).update(max_concurrent=cap)

    def chat(self, **fields: Any) -> dict[str, Any]:
        return chat(model=self.model.public_id, max_tokens=20, **fields)

    def ask(self, of: Customer, web: int = 0) -> wire.Answer:
        return wire.ask(self.webs[web], of.secret, self.chat())

    def answers(self, of: Customer, web: int = 0) -> None:
        """A call gets through, soon."""
        until(lambda: self.ask(of, web).status == 200, HEARD_SECONDS)


def assert_told_to_come_again(answer: wire.Answer) -> None:
    assert (answer.status, answer.error["code"], answer.retry_after) == (503, "model_unavailable", 1)


def assert_nothing_is_left(of: Customer) -> None:
    until(lambda: not of.holds)
    assert of.wallet.held == 0
    assert_books_hold()


def hold_open(script: ScriptedBackend) -> threading.Event:
    """Streams stop after their first token until the event is set."""
    gate = threading.Event()
    script.play(chunk("one"), gate, chunk(finish="stop"), usage(5, 2), DONE, whole=json.dumps(ANSWER).encode())
    return gate


def test_a_crowd_at_two_processes_never_passes_the_cap_and_whom_it_leaves_out_is_free(
    stack: Stack, counting: CountingBackend
) -> None:
    alice, routes = customer(), Routes(stack.webs, 3, counting.base_url)
    urls = [web.url for web in stack.webs] * CROWD
    for _ in range(3):
        answers = all_at_once(urls, alice.secret, routes.chat())
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503}
        assert {body["error"]["code"] for status, body in answers if status == 503} == {"model_unavailable"}
        assert statuses.count(200) >= 3
    assert counting.most == 3
    assert len(alice.settled(counting.calls, RECOVERY_SECONDS)) == counting.calls
    assert_nothing_is_left(alice)


def test_the_next_backend_gets_what_the_first_has_no_room_for(
    stack: Stack, counting: CountingBackend, spare: CountingBackend
) -> None:
    alice, routes = customer(), Routes(stack.webs, 2, counting.base_url, spare.base_url)
    urls = [web.url for web in stack.webs] * CROWD
    assert {status for status, _ in all_at_once(urls, alice.secret, routes.chat())} == {200}
    assert counting.most == 2
    assert counting.calls + spare.calls == len(urls)
    records = alice.settled(len(urls), RECOVERY_SECONDS)
    # Whom nobody asked has not failed: there is no attempt of it, and the breaker has nothing to count.
    assert {record.attempt for record in records} == {1}
    assert [record.backend for record in records].count(routes.backends[1]) == spare.calls


def test_a_stream_counts_until_its_end_and_who_finds_all_full_is_told_to_come_again(
    stack: Stack, scripted: ScriptedBackend
) -> None:
    alice, bob = customer(), customer()
    routes, gate = Routes(stack.webs, 1, scripted.base_url), hold_open(scripted)
    with wire.stream(stack.webs[0], alice.secret, routes.chat()) as stream:
        stream.read(1)
        assert_told_to_come_again(routes.ask(bob, 1))
        assert (bob.wallet.holds_opened, bob.wallet.holds_released) == (1, 1)
        assert_told_to_come_again(routes.ask(bob, 0))  # Which has the slot itself, so nothing is held.
        assert bob.wallet.holds_opened == 1
        for web, in_use in ((0, 1), (1, 0)):
            told = scraped(stack.webs[web], routes.backends[0])
            assert told[named("flint_backend_slots_in_use", routes.backends[0])] == in_use
            assert told[named("flint_backend_full_total", routes.backends[0])] == 1
        gate.set()
        assert stream.rest()[-1] is None
    routes.answers(bob, 1)
    assert len(bob.settled(1)) == 1
    assert_nothing_is_left(bob)


@pytest.mark.parametrize("streamed", [True, False])
def test_who_hangs_up_gives_the_slot_back(stack: Stack, scripted: ScriptedBackend, streamed: bool) -> None:
    alice, routes = customer(), Routes(stack.webs, 1, scripted.base_url)
    scripted.play(threading.Event())
    with wire.begun(stack.webs[0], alice.secret, routes.chat(stream=streamed)):
        until(lambda: scripted.calls == 1)
        assert_told_to_come_again(routes.ask(alice, 1))
    hold_open(scripted)
    routes.answers(alice, 1)


def test_a_backend_that_fails_has_its_slot_back_while_another_one_still_answers(
    stack: Stack, counting: CountingBackend, scripted: ScriptedBackend
) -> None:
    alice, routes = customer(), Routes(stack.webs, 1, counting.base_url, scripted.base_url)
    counting.status, gate = 500, hold_open(scripted)
    with wire.stream(stack.webs[0], alice.secret, routes.chat()) as stream:
        stream.read(1)
        assert counting.calls == 1
        assert routes.ask(alice, 1).status == 200
        assert counting.calls == 2
        gate.set()
        assert stream.rest()[-1] is None
    calls = [record.pk for record in alice.settled(2)]
    until(lambda: Attempt.objects.filter(call_id__in=calls, result=Attempt.Result.STATUS).count() == 2)


def test_what_a_killed_process_had_is_free_after_its_lease(
    stack: Stack, scripted: ScriptedBackend, tmp_path: Path
) -> None:
    alice = customer()
    hold_open(scripted)
    with web_process(tmp_path) as doomed:
        routes = Routes([stack.webs[0], doomed], 1, scripted.base_url)
        with wire.stream(doomed, alice.secret, routes.chat()) as stream:
            stream.read(1)
            doomed.kill()
    assert_told_to_come_again(routes.ask(alice))
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        ((call, free_at),) = client.zrange(routes.slots, 0, -1, withscores=True)
        assert free_at / MICRO - client.time()[0] < LEASE_SECONDS + 1
        client.zincrby(routes.slots, -LEASE_SECONDS * MICRO, call)
    routes.answers(alice)


def test_a_changed_cap_is_heard_by_every_process_and_what_runs_goes_on(stack: Stack, scripted: ScriptedBackend) -> None:
    alice, routes, gate = customer(), Routes(stack.webs, None, scripted.base_url), hold_open(scripted)

    def run() -> bool:
        with wire.stream(stack.webs[0], alice.secret, routes.chat()) as stream:
            stream.read(1)
            return stream.rest()[-1] is None

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(run) for _ in range(3)]
        until(lambda: scripted.calls == 3)
        routes.set_cap(3)
        for web in (0, 1):
            until(lambda web=web: routes.ask(alice, web).status == 503, HEARD_SECONDS)  # type: ignore[misc]
        routes.set_cap(4)
        for web in (0, 1):
            routes.answers(alice, web)
        routes.set_cap(1)
        for web in (0, 1):
            until(lambda web=web: routes.ask(alice, web).status == 503, HEARD_SECONDS)  # type: ignore[misc]
        gate.set()
        assert all(ended.result() for ended in running)
    for web in (0, 1):
        routes.answers(alice, web)
