"""The worked story: from nothing to a settled call, over sockets, with the command line and the real SDK."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import openai
import pytest
from django.core.management import call_command
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from accounts.registration import account_of
from apikeys import keys
from apikeys.models import ApiKey
from billing.models import UsageRecord, Wallet
from tests.billing.stage import assert_books_hold
from tests.demo_backend.process import DemoBackend
from tests.factories import unique
from tests.stack import Stack, until

CATALOGUE = json.loads((Path(__file__).parent.parent / "billing" / "catalogue.json").read_text())
MODEL = "deepseek-v4-pro"
MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Tell me of the tides. " * 40}]


@pytest.mark.usefixtures("committed")
def test_from_account_to_settled_calls_and_a_revoked_key(stack: Stack, request: pytest.FixtureRequest) -> None:
    email = f"{unique('alice')}@example.test"
    command("create_account", email)
    command("credit_account", "--account", email, "--usd", "10", "--reason", "the story")
    secret = command("issue_key", "--account", email, "--name", "laptop").strip()
    client = OpenAI(base_url=stack.api_base, api_key=secret, max_retries=0)
    request.addfinalizer(client.close)

    assert MODEL in {model.id for model in client.models.list()}
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    # The second prompt begins like the first, so the backend reads part of it from its cache.
    events = list(
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )

    text = "".join(choice.delta.content or "" for event in events for choice in event.choices)
    assert text == answer.choices[0].message.content
    account = account_of(email=email)
    records = until(lambda: settled_records(account.pk, 2), seconds=2)  # Settled within two seconds.
    assert [record.id for record in records] == [call_id(answer.id), call_id(events[0].id)]
    for record, shown in zip(records, (answer.usage, events[-1].usage), strict=True):
        served = journal(stack.backend, record.id)
        assert shown is not None
        assert (shown.prompt_tokens, shown.completion_tokens) == (record.input_tokens, record.output_tokens)
        assert (record.input_tokens, record.cached_input_tokens, record.output_tokens) == (
            served["prompt_tokens"],
            served["cached_tokens"],
            served["completion_tokens"],
        )
    assert records[1].cached_input_tokens > 0
    assert [record.charge for record in records] == [price(journal(stack.backend, record.id)) for record in records]
    assert Wallet.objects.get(pk=account.pk).posted == 10 * 10**12 - sum(record.charge for record in records)
    assert_books_hold()

    keys.revoke(key=ApiKey.objects.get(account=account), now=datetime.now(UTC))
    until(lambda: refused(client))  # Within a second, the life of a cached key.


def price(served: dict[str, Any]) -> int:
    """Pico-USD of what the backend served, from the published price list alone: USD per million tokens."""
    listed = next(model for model in CATALOGUE if model["id"] == served["model"])
    cost = (
        (served["prompt_tokens"] - served["cached_tokens"]) * Decimal(listed["input"])
        + served["cached_tokens"] * Decimal(listed["cached_input"])
        + served["completion_tokens"] * Decimal(listed["output"])
    ) * 10**6
    assert cost == int(cost)
    return int(cost)


def command(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue()


def call_id(completion_id: str) -> UUID:
    return UUID(completion_id.removeprefix("chatcmpl-"))


def settled_records(account_id: int, calls: int) -> list[UsageRecord] | None:
    records = list(UsageRecord.objects.filter(account_id=account_id, settled_at__isnull=False).order_by("id"))
    return records if len(records) == calls else None


def journal(backend: DemoBackend, call: UUID) -> dict[str, Any]:
    return backend.entry(str(call))


def refused(client: OpenAI) -> bool:
    try:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    except openai.AuthenticationError as error:
        return error.code == "invalid_api_key"
    except openai.PermissionDeniedError as error:
        # It was running when the key was revoked, and was ended by the next beat.
        if error.code != "key_disabled":
            raise
    return False
