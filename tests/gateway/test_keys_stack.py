"""What is done to keys on the site is so at every gateway process a second later, and what they do is seen there."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from apikeys import keys, secret
from apikeys.models import ApiKey
from gateway.authentication import Keys
from gateway.database import Pools
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import web_process
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

PROMISED_SECONDS = 1.0


def now() -> datetime:
    return datetime.now(UTC)


def statuses(stack: Stack, plaintext: str) -> list[int]:
    return [wire.ask(web, plaintext, chat(max_tokens=1)).status for web in stack.webs]


def last_used_at(key: ApiKey) -> datetime | None:
    return ApiKey.objects.values_list("last_used_at", flat=True).get(pk=key.pk)


def test_a_change_is_effective_at_every_process_a_second_later(stack: Stack) -> None:
    alice = customer()
    chosen = ApiKey.objects.filter(pk=alice.key.pk)
    assert statuses(stack, alice.secret) == [200, 200]  # At once: nobody had asked for it before.

    keys.disable(chosen=chosen, now=now())
    time.sleep(PROMISED_SECONDS)
    assert statuses(stack, alice.secret) == [403, 403]

    keys.enable(chosen=chosen)
    time.sleep(PROMISED_SECONDS)
    assert statuses(stack, alice.secret) == [200, 200]

    keys.revoke(key=alice.key, now=now())
    time.sleep(PROMISED_SECONDS)
    assert statuses(stack, alice.secret) == [401, 401]


def test_a_key_that_was_asked_for_before_it_existed_works_a_second_after_it_is_made(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, plaintext = customer(), secret.generate()
    assert statuses(stack, plaintext) == [401, 401]
    monkeypatch.setattr(secret, "generate", lambda: plaintext)

    keys.create(account=alice.account, name="foreseen", now=now())

    time.sleep(PROMISED_SECONDS)
    assert statuses(stack, plaintext) == [200, 200]


def test_a_rotated_key_works_beside_its_successor_until_the_overlap_ends(stack: Stack) -> None:
    alice = customer()
    assert statuses(stack, alice.secret) == [200, 200]

    _, successor = keys.rotate(key=alice.key, overlap=timedelta(seconds=4), now=now())

    assert statuses(stack, alice.secret) + statuses(stack, successor) == [200] * 4
    alice.key.refresh_from_db()
    assert alice.key.expires_at
    time.sleep((alice.key.expires_at - now()).total_seconds() + PROMISED_SECONDS)
    assert statuses(stack, alice.secret) == [401, 401]
    assert statuses(stack, successor) == [200, 200]


class TestLastUse:
    def test_is_seen_soon_after_a_call(self, stack: Stack) -> None:
        alice = customer()
        assert last_used_at(alice.key) is None
        before = now()

        assert statuses(stack, alice.secret) == [200, 200]

        used = until(lambda: last_used_at(alice.key), 20)
        assert before - timedelta(seconds=1) < used < now() + timedelta(seconds=1)

    def test_is_written_by_a_process_that_ends(self, stack: Stack, tmp_path: Path) -> None:
        alice = customer()
        with web_process(tmp_path) as web:
            before = now()
            assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
        used = last_used_at(alice.key)
        assert used
        assert used > before - timedelta(seconds=1)

    def test_of_a_refused_key_is_not_noted(self, stack: Stack, tmp_path: Path) -> None:
        alice = customer()
        keys.disable(chosen=ApiKey.objects.filter(pk=alice.key.pk), now=now())
        with web_process(tmp_path) as web:
            assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 403
        assert last_used_at(alice.key) is None

    def test_is_kept_while_it_cannot_be_written(self) -> None:
        alice = customer()

        asyncio.run(self._use_and_note_twice(alice))

        used = last_used_at(alice.key)
        assert used
        # Two seconds are waited for the lock, and the use was before.
        assert now() - used > timedelta(seconds=2)

    @staticmethod
    async def _use_and_note_twice(alice: Customer) -> None:
        pools = Pools()
        await pools.open()
        known = Keys(pools)
        await known.authenticate(f"Bearer {alice.secret}")
        with psycopg.connect(os.environ["DATABASE_URL"]) as other:
            other.execute("SELECT FROM apikeys_apikey WHERE id = %s FOR UPDATE", [alice.key.pk])
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await known.note_uses()
            other.rollback()
        await known.note_uses()
        await pools.close()
