"""A backend that keeps failing is left alone by all processes, and found again by one call."""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import redis
from pytest_django import Settings

from billing.models import Wallet
from gateway import breaker
from gateway.breaker import PROBES_KEY, REDIS_KEY, SLOW_MS, Breaker
from gateway.directory import Target
from gateway.errors import BackendUnavailable
from gateway.models import Attempt
from gateway.requests import Dialect
from tests.gateway import wire
from tests.gateway.conftest import Lab
from tests.gateway.customers import chat, customer
from tests.gateway.processes import web_process
from tests.gateway.scripted import DONE, JSON_HEAD, chunk, usage
from tests.stack import until

Result = Attempt.Result

GPU = Target("gpu", "http://gpu/v1", None, "any", 0, 1, Dialect())
SPARE = Target("spare", "http://spare/v1", None, "any", 0, 1, Dialect())
DOWN = JSON_HEAD.replace(b"200 OK", b"500 Internal Server Error")
WELL = (chunk("one"), chunk(finish="stop"), usage(5, 2), DONE)
_models = itertools.count(10**9)


class Fleet:
    """Two processes, and a model of their own."""

    def __init__(self) -> None:
        self.model = next(_models)
        self.one, self.two = Breaker(uuid.uuid4()), Breaker(uuid.uuid4())

    def ended(
        self,
        by: Breaker,
        result: Result,
        *,
        calls: int = 1,
        status: int | None = None,
        after: int = 0,
        account: int | None = None,
    ) -> None:
        """Each call is of another account, unless one is named."""
        for number in range(calls):
            call, whose = uuid.uuid4(), account or number
            if by.enter(self.model, "gpu", call):
                by.ended(self.model, "gpu", call, account_id=whose, result=result, status=status, retry_after=after)

    def accepted(self, by: Breaker, *, calls: int = 1, first_token_ms: int = 5) -> None:
        for _ in range(calls):
            call = uuid.uuid4()
            if by.enter(self.model, "gpu", call):
                by.accepted(self.model, "gpu", call, first_token_ms=first_token_ms)

    async def share(self) -> None:
        for process in (self.one, self.two, self.one):
            await process.share()

    def asks(self, by: Breaker) -> list[str]:
        return [target.backend for target in by.sift(self.model, [GPU, SPARE])]

    def let_the_pause_end(self) -> None:
        """For Redis: as if its open breakers had been so for a minute."""
        with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
            for field, state in client.hgetall(REDIS_KEY).items():
                parts = [part if '"until_"' not in part else '"until_":0' for part in state.strip("{}").split(",")]
                client.hset(REDIS_KEY, field, "{" + ",".join(parts) + "}")


@pytest.fixture(autouse=True)
def breakers(settings: Settings) -> Iterator[None]:
    settings.GATEWAY_BREAKER_SECONDS = 30
    settings.GATEWAY_PROBE_SECONDS = 60
    yield
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.delete(REDIS_KEY, PROBES_KEY)


def with_fleet(facts: Callable[[Fleet], Awaitable[None]]) -> None:
    async def run() -> None:
        fleet = Fleet()
        try:
            await facts(fleet)
        finally:
            await fleet.one.close()
            await fleet.two.close()

    asyncio.run(run())


def test_five_failures_in_a_row_open_it_for_every_process() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.accepted(fleet.one, calls=50)
        fleet.ended(fleet.one, Result.BROKEN, calls=3)
        await fleet.share()
        assert fleet.asks(fleet.two) == ["gpu", "spare"]
        fleet.ended(fleet.two, Result.STATUS, calls=2, status=500)
        await fleet.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["spare"]
        with pytest.raises(BackendUnavailable) as refused:
            fleet.two.sift(fleet.model, [GPU])
        assert 25 <= (refused.value.retry_after or 0) <= 30

    with_fleet(facts)


def test_half_of_the_attempts_open_it_but_not_a_few_and_not_prompts_or_customers() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.PROMPT_REFUSED, calls=9, status=400)
        fleet.ended(fleet.one, Result.LEFT, calls=9)
        fleet.ended(fleet.one, Result.SILENT, calls=4)
        await fleet.share()
        assert fleet.asks(fleet.two) == ["gpu", "spare"]
        for _ in range(5):
            fleet.accepted(fleet.two)
            fleet.ended(fleet.two, Result.SILENT, calls=3)
            await fleet.share()
        assert fleet.asks(fleet.two) == ["spare"]

    with_fleet(facts)


def in_doubt(fleet: Fleet) -> bool:
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        return next(state.doubted for state in breaker.states(client) if state.model_id == fleet.model)


def worker_finds(fleet: Fleet, probe: Literal["good", "bad"]) -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
        breaker.tell(client, fleet.model, "gpu", probe=probe, result=Result.OK if probe == "good" else Result.BROKEN)


@pytest.mark.parametrize("good_calls", [0, 4])
def test_one_customer_cannot_open_it_unless_a_probe_fails_as_well(good_calls: int) -> None:
    async def facts(fleet: Fleet) -> None:
        for probe in ("good", "bad"):
            fleet.accepted(fleet.two, calls=good_calls)
            fleet.ended(fleet.one, Result.STATUS, calls=4, status=500, account=7)
            fleet.ended(fleet.two, Result.STATUS, calls=5, status=500, account=7)
            await fleet.share()
            assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["gpu", "spare"]
            assert in_doubt(fleet)
            worker_finds(fleet, probe)
            await fleet.share()
            assert (
                fleet.asks(fleet.one) == fleet.asks(fleet.two) == (["gpu", "spare"] if probe == "good" else ["spare"])
            )

    with_fleet(facts)


def test_a_second_customer_opens_it_at_once() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.STATUS, calls=5, status=500, account=7)
        await fleet.share()
        assert fleet.asks(fleet.two) == ["gpu", "spare"]
        fleet.ended(fleet.two, Result.STATUS, status=500, account=8)
        await fleet.share()
        assert fleet.asks(fleet.two) == ["spare"]

    with_fleet(facts)


def test_a_success_ends_the_doubt() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.STATUS, calls=5, status=500, account=7)
        await fleet.share()
        fleet.accepted(fleet.two, calls=6)
        await fleet.share()
        assert not in_doubt(fleet)

    with_fleet(facts)


@pytest.mark.parametrize("workers_probe", [True, False])
def test_where_no_worker_probes_one_customer_is_believed(
    workers_probe: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.GATEWAY_PROBE_SECONDS = 60 if workers_probe else 0
    monkeypatch.setattr(breaker, "PATIENCE_SECONDS", 1)

    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.STATUS, calls=5, status=500, account=7)
        await fleet.share()
        if workers_probe:
            assert fleet.asks(fleet.two) == ["gpu", "spare"]
            await asyncio.sleep(1)  # Its patience.
            fleet.ended(fleet.one, Result.STATUS, status=500, account=7)
            await fleet.share()
        assert fleet.asks(fleet.two) == ["spare"]

    with_fleet(facts)


def test_what_a_firewall_says_to_one_prompt_does_not_shut_it() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.STATUS, status=403)
        await fleet.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["gpu", "spare"]

    with_fleet(facts)


def test_calls_leave_the_probe_to_a_worker_for_a_while(settings: Settings) -> None:
    async def facts(fleet: Fleet) -> None:
        settings.GATEWAY_BREAKER_SECONDS = 1
        fleet.ended(fleet.one, Result.NO_CONNECTION, calls=5)
        await fleet.share()
        await asyncio.sleep(1)  # The pause.
        assert fleet.asks(fleet.one) == ["spare"]
        await fleet.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["spare"]
        settings.GATEWAY_PROBE_SECONDS = 0
        await fleet.share()
        assert fleet.asks(fleet.one) == ["gpu", "spare"]

    with_fleet(facts)


def test_no_call_goes_where_a_worker_is_probing() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.NO_CONNECTION, calls=5)
        await fleet.share()
        fleet.let_the_pause_end()
        with redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True) as client:
            breaker.tell(client, fleet.model, "gpu", probe="begun")
        await fleet.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["spare"]

    with_fleet(facts)


def test_late_first_tokens_put_it_behind_the_others() -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.accepted(fleet.one, calls=4)
        fleet.accepted(fleet.one, calls=5, first_token_ms=SLOW_MS + 1)
        await fleet.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == ["spare", "gpu"]

    with_fleet(facts)


@pytest.mark.parametrize("is_well", [True, False])
def test_after_the_pause_one_call_of_one_process_finds_out(is_well: bool) -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.NO_CONNECTION, calls=5)
        await fleet.share()
        fleet.let_the_pause_end()
        await fleet.one.share()  # It has no calls for that backend, so the probe is left to one that has.
        assert fleet.asks(fleet.two) == ["spare"]
        await fleet.two.share()
        assert fleet.asks(fleet.one) == ["spare"]
        await fleet.one.share()
        assert fleet.asks(fleet.one) == ["spare"]
        assert fleet.asks(fleet.two) == ["gpu", "spare"]
        probe = uuid.uuid4()
        assert fleet.two.enter(fleet.model, "gpu", probe)
        assert not fleet.two.enter(fleet.model, "gpu", uuid.uuid4())
        assert fleet.asks(fleet.two) == ["spare"]
        if is_well:
            fleet.two.accepted(fleet.model, "gpu", probe, first_token_ms=5)
        else:
            fleet.two.ended(
                fleet.model, "gpu", probe, account_id=1, result=Result.BROKEN, status=None, retry_after=None
            )
        await fleet.two.share()
        await fleet.one.share()
        assert fleet.asks(fleet.one) == fleet.asks(fleet.two) == (["gpu", "spare"] if is_well else ["spare"])

    with_fleet(facts)


@pytest.mark.parametrize(("status", "after", "seconds"), [(429, 7, 7), (429, 900, 60), (401, 0, 30), (402, 0, 30)])
def test_a_backend_that_wants_to_be_left_alone_is_at_once(status: int, after: int, seconds: int) -> None:
    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.STATUS, status=status, after=after)
        assert fleet.asks(fleet.one) == ["spare"]
        await fleet.share()
        with pytest.raises(BackendUnavailable) as refused:
            fleet.two.sift(fleet.model, [GPU])
        assert seconds - 2 <= (refused.value.retry_after or 0) <= seconds

    with_fleet(facts)


def test_without_redis_every_breaker_is_closed_and_that_is_told_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    async def facts(fleet: Fleet) -> None:
        fleet.ended(fleet.one, Result.BROKEN, calls=9)
        await fleet.share()
        assert fleet.asks(fleet.one) == ["gpu", "spare"]

    with_fleet(facts)
    told = "breakers are not shared (ConnectionError): every backend is asked"
    assert caplog.messages == [told] * 2  # Once by each process.


def test_a_script_that_fails_is_told_once_in_its_words_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def facts(fleet: Fleet) -> None:
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            client.set(REDIS_KEY, "no hash")
            await fleet.share()
            client.delete(REDIS_KEY)
            await fleet.share()

    with_fleet(facts)
    failed, ended = caplog.messages[:2], caplog.messages[2:]
    assert all("breakers are not shared" in message and "WRONGTYPE" in message for message in failed)
    assert ended == ["breakers are shared again"] * 2


@pytest.mark.usefixtures("committed")
def test_all_processes_refuse_before_they_reserve_until_the_backend_is_well(lab: Lab, tmp_path: Path) -> None:
    alice = customer()
    pause = {"GATEWAY_BREAKER_SECONDS": "3", "GATEWAY_PROBE_SECONDS": "0"}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with web_process(tmp_path / "one", **pause) as one, web_process(tmp_path / "two", **pause) as two:
        lab.scripted.play(b'{"error": "down"}', head=DOWN)
        for _ in range(5):
            assert wire.ask(one, alice.secret, chat(model=lab.of_script)).status == 503
        until(lambda: b"breaker open" in two.log.read_bytes() and b"breaker open" in one.log.read_bytes())
        opened, calls = alice.wallet.holds_opened, lab.scripted.calls
        for web in (one, two):
            answer = wire.ask(web, alice.secret, chat(model=lab.of_script))
            assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
            assert 1 <= answer.retry_after <= 3
        assert (alice.wallet.holds_opened, lab.scripted.calls) == (opened, calls)
        assert Wallet.objects.get(pk=alice.account.pk).held == 0

        lab.scripted.play(*WELL)
        body = chat(model=lab.of_script, stream=True)
        for web in (one, two):
            until(lambda web=web: wire.ask(web, alice.secret, body).status == 200, 15)  # type: ignore[misc]
    assert {record.output_tokens for record in alice.settled(2)} == {2}
