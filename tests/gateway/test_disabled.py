from __future__ import annotations

from datetime import UTC, datetime

import openai
import pytest

from apikeys.models import ApiKey
from billing.models import UsageRecord
from tests.gateway.customers import chat, customer
from tests.stack import Stack

pytestmark = pytest.mark.usefixtures("committed")


def test_a_disabled_key_ends_its_running_streams_which_pay_for_what_they_got(stack: Stack) -> None:
    alice = customer()
    body = chat("[demo: tokens=900 tokens_per_second=30]", stream=True)
    with alice.openai(stack.api_base) as client, client.chat.completions.create(**body) as stream:
        next(iter(stream))

        ApiKey.objects.filter(pk=alice.key.pk).update(disabled_at=datetime.now(UTC))

        with pytest.raises(openai.APIError, match="disabled"):
            for _ in stream:
                pass
    (record,) = alice.settled(1)
    assert record.outcome == UsageRecord.Outcome.KEY_DISABLED
    assert 0 < record.charge < record.held
    assert 0 < record.output_tokens < 900
