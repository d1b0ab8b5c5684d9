"""A gateway process lives, is told of changes, and ends in good order: in each case the money is right."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from apikeys import keys
from billing.models import GatewayProcess, Hold, LanguageModel, ReleasedHolds, UsageRecord
from billing.usage import Outcome
from gateway.models import Backend
from tests import factories
from tests.billing.stage import assert_books_hold, nothing_can_be_recorded, reserve, wait_until_blocked_by
from tests.gateway import wire
from tests.gateway.conftest import listed, priced_model, serve
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import boot_of, web_process
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")


def now() -> datetime:
    return datetime.now(UTC)


def test_a_process_beats_under_a_boot_of_its_own(stack: Stack) -> None:
    boots = [boot_of(web) for web in stack.webs]
    assert len(set(boots)) == 2
    for boot in boots:
        beat = GatewayProcess.objects.get(pk=boot).beat
        until(lambda boot=boot, beat=beat: GatewayProcess.objects.get(pk=boot).beat > beat)  # type: ignore[misc]


def test_sigterm_lets_running_streams_finish(stack: Stack, tmp_path: Path) -> None:
    alice = customer()
    with web_process(tmp_path) as web:
        boot = boot_of(web)
        with wire.stream(web, alice.secret, chat("[demo: tokens=60 tokens_per_second=60]")) as opened:
            opened.read(1)
            web.process.terminate()
            assert opened.rest()[-1] is None
        assert web.stop() in (0, -15)
    (record,) = alice.settled(1)
    assert (record.outcome, record.output_tokens) == (Outcome.COMPLETED, 60)
    settled_and_gone = GatewayProcess.objects.filter(pk=boot)
    assert not Hold.objects.filter(owner=boot).exists()
    assert settled_and_gone.count() <= 1  # Listed until the sweep if its hold was still open when it left.


def test_sigterm_ends_what_outlasts_the_drain_with_a_word_and_a_record(stack: Stack, tmp_path: Path) -> None:
    alice = customer()
    with web_process(tmp_path, FLINT_DRAIN_SECONDS="1") as web:
        slow = chat("[demo: tokens=1000 tokens_per_second=20]", max_tokens=1000)
        silent = chat("[demo: first_token_ms=60000]")
        with wire.stream(web, alice.secret, slow) as opened, wire.begun(web, alice.secret, silent) as waiting:
            opened.read(3)
            until(lambda: len(alice.holds) == 2)
            web.process.terminate()
            *_, last, done = opened.rest()
            answer = waiting.getresponse()
            unaccepted = wire.Answer(answer.status, answer.headers, answer.read())
        assert web.stop() in (0, -15)
    assert done is None
    assert last is not None
    assert "restarted" in last["error"]["message"]
    assert (unaccepted.status, unaccepted.error["code"]) == (503, "model_unavailable")
    (record,) = alice.settled(1)
    assert record.outcome == Outcome.SERVER_STOPPED
    served = stack.backend.entry(str(record.pk))
    assert 3 <= record.output_tokens <= 2 * served["tokens_written"]
    assert record.charge > 0
    assert "Traceback" not in web.log.read_text()
    assert_books_hold()


def test_a_process_that_stops_writes_what_is_unwritten(stack: Stack, tmp_path: Path) -> None:
    alice = customer()
    with web_process(tmp_path) as web:
        with nothing_can_be_recorded():
            answer = wire.ask(web, alice.secret, chat())
            assert answer.status == 503
            web.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                web.process.wait(3)
        assert web.stop() in (0, -15)
    record = alice.only_record()
    assert (record.pk, record.outcome) == (answer.call_id, Outcome.COMPLETED)


def test_a_hold_that_its_process_does_not_know_is_given_back_within_seconds(stack: Stack) -> None:
    alice = customer()
    old = factories.ask(alice.account, 1_000, owner=boot_of(stack.webs[0]), admitted_at=now() - timedelta(seconds=10))
    assert reserve(old)[0].admitted
    until(lambda: not alice.holds)
    assert alice.wallet.held == 0
    assert ReleasedHolds.objects.get(account=alice.account).reason == "forgotten"


def test_a_running_call_is_not_given_back_however_old_its_id_is(stack: Stack) -> None:
    alice = customer()
    with wire.stream(stack.webs[0], alice.secret, chat("[demo: hang_after=1]")) as opened:
        opened.read(1)
        # As if its body had taken ten seconds to arrive.
        Hold.objects.filter(pk=opened.call_id).update(admitted_at=now() - timedelta(seconds=10))
        beat = GatewayProcess.objects.get(pk=boot_of(stack.webs[0])).beat
        until(lambda: GatewayProcess.objects.get(pk=boot_of(stack.webs[0])).beat > beat + 1)
        assert [hold.pk for hold in alice.holds] == [opened.call_id]


def test_a_hold_stays_until_the_record_of_its_call_is_durable(stack: Stack) -> None:
    alice, web = customer(), stack.webs[0]
    with nothing_can_be_recorded() as other, ThreadPoolExecutor() as pool:
        asked = pool.submit(wire.ask, web, alice.secret, chat())
        wait_until_blocked_by(other)
        (hold,) = alice.holds
        # As if it had run for so long that the heartbeat would miss it.
        Hold.objects.filter(account_id=alice.account.pk).update(admitted_at=now() - timedelta(seconds=10))
        answer = asked.result()
        assert (answer.status, answer.error["code"]) == (503, "service_unavailable")
        beat = GatewayProcess.objects.get(pk=hold.owner).beat
        until(lambda: GatewayProcess.objects.get(pk=hold.owner).beat > beat + 1)
        assert alice.holds == [hold]
    assert (alice.only_record().outcome, alice.wallet.held) == (Outcome.COMPLETED, 0)
    assert_books_hold()


def test_a_call_that_no_backend_has_accepted_has_no_checkpoint_and_would_be_free(stack: Stack) -> None:
    alice = customer()
    with wire.begun(stack.webs[0], alice.secret, chat("[demo: hang_before]")):
        (hold,) = until(lambda: alice.holds)
        until(lambda: stack.backend.entries(str(hold.pk)))  # It has been sent.
        beat = GatewayProcess.objects.get(pk=hold.owner).beat
        until(lambda: GatewayProcess.objects.get(pk=hold.owner).beat > beat + 1)
        (hold,) = alice.holds
        assert (hold.checkpoint_input_tokens, hold.checkpoint_output_tokens) == (None, None)


def test_a_revoked_key_is_refused_by_every_process_soon(stack: Stack) -> None:
    alice = customer()
    for web in stack.webs:
        assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
    keys.revoke(key=alice.key, now=now())
    for web in stack.webs:
        until(lambda web=web: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 401)  # type: ignore[misc]


def test_a_revoked_key_is_dead_everywhere_a_second_later(stack: Stack) -> None:
    alice = customer()
    for web in stack.webs:
        assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
    keys.revoke(key=alice.key, now=now())
    time.sleep(1)  # Exactly as long as is promised.
    assert [wire.ask(web, alice.secret, chat(max_tokens=1)).status for web in stack.webs] == [401, 401]


def test_a_new_model_with_its_price_and_route_is_served_soon(stack: Stack) -> None:
    alice = customer()
    model = priced_model()
    name = factories.unique("backend")
    serve(name, stack.backend.base_url, model)
    for web in stack.webs:
        until(lambda web=web: model.public_id in listed(web))  # type: ignore[misc]
        until(lambda web=web: status(web, alice, model) == 200)  # type: ignore[misc]  # Its route may be read later.
    Backend.objects.filter(name=name).update(enabled=False)
    for web in stack.webs:
        until(lambda web=web: status(web, alice, model) == 503)  # type: ignore[misc]
    Backend.objects.filter(name=name).update(enabled=True)
    LanguageModel.objects.filter(pk=model.pk).update(listed=False)
    for web in stack.webs:
        until(lambda web=web: status(web, alice, model) == 404)  # type: ignore[misc]


def status(web: WebProcess, of: Customer, model: LanguageModel) -> int:
    return wire.ask(web, of.secret, chat(model=model.public_id, max_tokens=1)).status


def test_a_locked_wallet_is_503_in_bounded_time_and_delays_nobody_else(stack: Stack) -> None:
    alice, charlie = customer(), customer()
    with psycopg.connect(os.environ["DATABASE_URL"]) as other:
        other.execute("SELECT FROM billing_wallet WHERE account_id = %s FOR UPDATE", [alice.account.pk])
        started = time.monotonic()
        with wire.begun(stack.webs[0], alice.secret, chat()) as blocked:
            wait_until_blocked_by(other)
            for _ in range(10):
                asked = time.monotonic()
                assert wire.ask(stack.webs[0], charlie.secret, chat(max_tokens=1)).status == 200
                assert time.monotonic() - asked < 1.5  # Less than the patience with a locked wallet.
            answer = blocked.getresponse()
            refusal = wire.Answer(answer.status, answer.headers, answer.read())
        assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
        assert time.monotonic() - started < 4
        other.rollback()
    assert wire.ask(stack.webs[0], alice.secret, chat(max_tokens=1)).status == 200
    assert len(alice.settled(1)) == 1
    assert UsageRecord.objects.filter(account=charlie.account).count() == 10
