from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from apikeys import keys
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def test_a_revoked_key_is_dead_everywhere_a_second_later(stack: Stack) -> None:
    alice = customer()
    for web in stack.webs:
        assert wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200
    keys.revoke(key=alice.key, now=datetime.now(UTC))
    time.sleep(1)  # Exactly as long as is promised.
    assert [wire.ask(web, alice.secret, chat(max_tokens=1)).status for web in stack.webs] == [401, 401]
