"""Workers find dead backends before customers do, and mended ones as well."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from billing.models import LanguageModel
from flint.celery import app
from gateway import breaker, rounds
from gateway.breaker import PROBES_KEY, REDIS_KEY, State
from gateway.models import Attempt, Route
from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import priced_model, serve
from tests.gateway.customers import chat, customer
from tests.gateway.processes import web_process
from tests.gateway.scripted import DONE, JSON_HEAD, ScriptedBackend, chunk, usage
from tests.stack import until

pytestmark = pytest.mark.usefixtures("committed")

Result = Attempt.Result

HELLO = json.dumps(
    {"choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}]}
).encode()
WELL = (chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
DOWN = JSON_HEAD.replace(b"200 OK", b"500 Internal Server Error")


@dataclass
class Lonely:
    """A model at one backend, and a worker to whom all others are known."""

    scripted: ScriptedBackend
    model: LanguageModel
    backend: str
    redis: redis.Redis

    @property
    def state(self) -> State | None:
        known = (state for state in breaker.states(self.redis) if state.model_id == self.model.pk)
        return next(known, None)

    def round(self) -> State:
        others = Route.objects.filter(enabled=True, backend__enabled=True).exclude(model=self.model)
        for route in others.select_related("backend"):
            breaker.tell(self.redis, route.model_id, route.backend.name, probe="good", result=Result.OK)
        asyncio.run(rounds.make())
        assert self.state is not None
        return self.state

    def let_time_pass(self) -> None:
        """As if the last that was heard of it, and its pause, were a minute ago."""
        field = f"{self.model.pk} {self.backend}"
        known = json.loads(self.redis.hget(REDIS_KEY, field) or "")
        minute = 60_000
        known |= {"seen": known["seen"] - minute, "until_": known["until_"] - minute}
        self.redis.hset(REDIS_KEY, field, json.dumps(known))

    def play_well(self) -> None:
        self.scripted.play(*WELL, whole=HELLO)

    def play_dead(self) -> None:
        self.scripted.play(b"", head=DOWN)


@pytest.fixture
def lonely(settings: Settings) -> Iterator[Lonely]:
    settings.GATEWAY_BREAKER_SECONDS, settings.GATEWAY_PROBE_SECONDS = 30, 60
    scripted, model, name = ScriptedBackend(), priced_model(), factories.unique("lonely")
    serve(name, scripted.base_url, model)
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        yield Lonely(scripted, model, name, client)
        client.delete(REDIS_KEY, PROBES_KEY)
    Route.objects.filter(model=model).delete()
    scripted.stop()


def test_an_idle_backend_is_asked_once_in_its_time(lonely: Lonely) -> None:
    lonely.play_well()
    found = lonely.round()
    assert (found.probed, found.words, found.why) == (Result.OK, "answered", "")
    lonely.round()
    assert lonely.scripted.calls == 1
    lonely.let_time_pass()
    lonely.round()
    assert lonely.scripted.calls == 2


def test_a_dead_one_is_known_after_two_probes_and_a_mended_one_after_one(lonely: Lonely) -> None:
    lonely.play_dead()
    assert (lonely.round().why, lonely.scripted.calls) == ("", 1)
    found = lonely.round()
    assert (found.why, found.probed, found.words) == ("failing", Result.STATUS, f"{lonely.backend}: status 500")
    assert lonely.scripted.calls == 2
    lonely.round()
    assert lonely.scripted.calls == 2  # It has its pause.
    lonely.let_time_pass()
    assert (lonely.round().openings, lonely.scripted.calls) == (2, 3)
    lonely.play_well()
    lonely.let_time_pass()
    found = lonely.round()
    assert (found.why, found.openings, found.probed) == ("", 0, Result.OK)


def test_one_bad_probe_is_forgotten_after_a_good_one(lonely: Lonely) -> None:
    for play in (lonely.play_dead, lonely.play_well, lonely.play_dead):
        play()
        found = lonely.round()
        assert found.why == ""
        if not found.doubted:
            lonely.let_time_pass()


def test_a_backend_that_wants_to_be_left_alone_is(lonely: Lonely) -> None:
    lonely.scripted.play(b"", head=DOWN.replace(b"500 Internal Server Error", b"429 Slow\r\nRetry-After: 40"))
    found = lonely.round()
    assert found.why == "failing"
    assert 35 <= found.seconds <= 40


def test_who_stays_busy_is_not_left_alone_for_longer_each_time(lonely: Lonely) -> None:
    for _ in range(3):
        lonely.scripted.play(b"", head=DOWN.replace(b"500 Internal Server Error", b"429 Slow\r\nRetry-After: 1"))
        found = lonely.round()
        assert (found.why, found.openings, found.probed) == ("failing", 1, Result.STATUS)
        lonely.let_time_pass()


def test_one_worker_makes_the_round(lonely: Lonely) -> None:
    lonely.play_well()
    with lonely.redis.lock(rounds.ROUND_KEY, timeout=10):
        asyncio.run(rounds.make())
        assert lonely.scripted.calls == 0
    lonely.round()
    assert lonely.scripted.calls == 1


@pytest.mark.parametrize("name", ["GATEWAY_PROBE_SECONDS", "GATEWAY_BREAKER_SECONDS"])
def test_it_can_be_switched_off(lonely: Lonely, settings: Settings, name: str) -> None:
    setattr(settings, name, 0)
    asyncio.run(rounds.make())
    assert lonely.scripted.calls == 0


def test_what_is_disabled_is_not_asked(lonely: Lonely) -> None:
    Route.objects.filter(model=lonely.model).update(enabled=False)
    asyncio.run(rounds.make())
    assert lonely.scripted.calls == 0


def test_without_redis_nothing_is_asked(lonely: Lonely, settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    asyncio.run(rounds.make())
    assert lonely.scripted.calls == 0


def test_beat_sends_a_task_that_there_is() -> None:
    app.loader.import_default_modules()
    assert app.conf.beat_schedule["probe_backends"]["task"] in app.tasks


def test_one_customers_poison_shuts_no_backend_and_a_dead_one_is_left_alone_by_all(
    lonely: Lonely, tmp_path: Path
) -> None:
    alice, charlie = customer(), customer()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    model = lonely.model.public_id
    on = {"GATEWAY_BREAKER_SECONDS": "30", "GATEWAY_PROBE_SECONDS": "60"}
    with web_process(tmp_path / "one", **on) as one, web_process(tmp_path / "two", **on) as two:
        poison, plain = chat(model=model, stream=True), chat(model=model)
        lonely.scripted.play(b"", head=DOWN, whole=HELLO)
        for web in itertools.islice(itertools.cycle([one, two]), 6):
            assert wire.ask(web, alice.secret, poison).status == 503
        until(lambda: lonely.state and lonely.state.doubted)
        assert lonely.round().why == ""
        for web in (one, two):
            assert wire.ask(web, charlie.secret, plain).status == 200

        lonely.play_dead()
        for _ in range(5):
            assert wire.ask(one, alice.secret, plain).status == 503
        until(lambda: lonely.state and lonely.state.doubted)
        assert lonely.round().why == "failing"
        for web in (one, two):
            until(lambda web=web: b"breaker open" in web.log.read_bytes())  # type: ignore[misc]
            metrics = wire.ask(web, None, method="GET", path="/metrics").body.decode()
            labels = f'backend="{lonely.backend}",model="{model}"'
            assert f'flint_breaker_open{{{labels},why="failing"}} 1.0' in metrics
            assert f'flint_backend_probes{{{labels},result="status"}} 1.0' in metrics
        opened, asked = charlie.wallet.holds_opened, lonely.scripted.calls
        answer = wire.ask(two, charlie.secret, plain)
        assert (answer.status, 1 <= answer.retry_after <= 30) == (503, True)
        assert (charlie.wallet.holds_opened, lonely.scripted.calls) == (opened, asked)

        lonely.play_well()
        lonely.let_time_pass()
        assert lonely.round().why == ""
        for web in (one, two):
            until(lambda web=web: b"breaker closed" in web.log.read_bytes())  # type: ignore[misc]
            assert wire.ask(web, charlie.secret, plain).status == 200
