"""Each refusal of /v1 reaches each client as the error that its customers catch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from accounts.models import Account, Tier
from apikeys.keys import SpendCap, set_spend_cap
from apikeys.models import ApiKey, SpendPeriod
from billing.usage import Outcome
from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import listed, priced_model, serve
from tests.gateway.customers import Customer, chat, customer
from tests.sdk.clients import MODEL, Client, Runner
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

OPENAI_CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "APIStatusError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    413: "APIStatusError",
    429: "RateLimitError",
    503: "InternalServerError",
}
# By the class that a client raises. All of LangChain's are also OpenAI's of the same meaning.
CLASSES = {
    "openai-node": OPENAI_CLASSES | {402: "APIError", 413: "APIError"},
    "go-openai": dict.fromkeys(OPENAI_CLASSES, "APIError"),
    "litellm": OPENAI_CLASSES | {402: "APIError", 403: "APIError", 413: "APIError", 503: "ServiceUnavailableError"},
    "langchain": OPENAI_CLASSES
    | {
        400: "OpenAIInvalidRequestError",
        401: "OpenAIAuthenticationError",
        403: "OpenAIPermissionDeniedError",
        404: "OpenAIModelNotFoundError",
        429: "OpenAIRateLimitError",
        503: "OpenAIAPIError",
    },
    "ai-sdk": dict.fromkeys(OPENAI_CLASSES, "AI_APICallError"),
    "curl": dict.fromkeys(OPENAI_CLASSES, "Refused"),
}


# What a client tells from others of its status, so that its customers can shorten the prompt.
OWN_CLASSES = {("litellm", "too_long"): "ContextWindowExceededError"}

REFUSALS = {
    "unknown_key": (401, "invalid_request_error", "invalid_api_key"),
    "no_balance": (402, "insufficient_quota", "insufficient_balance"),
    "disabled_key": (403, "permission_error", "key_disabled"),
    "disabled_account": (403, "permission_error", "account_disabled"),
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
    "wrong_parameter": (400, "invalid_request_error", "invalid_request"),
    "too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "cap_reached": (402, "insufficient_quota", "key_budget_exceeded"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "too_many": (429, "rate_limit_error", "rate_limit_exceeded_requests"),
    "no_backend": (503, "server_error", "model_unavailable"),
}
ERRANDS: dict[str, dict[str, Any]] = {
    "unknown_model": {"model": "gpt-4"},
    "wrong_parameter": {"options": {"temperature": 2.5}},
    "too_long": {"megabytes": 1},  # Of a model with a short context.
    "too_large": {"megabytes": 33},
    "no_backend": {"text": "[demo: status=503]"},
}
WORDS = {
    "unknown_key": "Missing or invalid API key.",
    "no_balance": "Please top up.",
    "disabled_key": "This API key has been disabled.",
    "disabled_account": "This account has been disabled.",
    "unknown_model": "The model `gpt-4` does not exist.",
    "wrong_parameter": "Invalid `temperature`",
    "too_long": "This model's maximum context length is 2000 tokens",
    "cap_reached": "left of its spend cap of",
    "too_large": "larger than 32 MB",
    "too_many": "Retry-After",
    "no_backend": "The model is temporarily unavailable.",
}
BROKEN_STREAM = {"ai-sdk": "Object", "litellm": "MidStreamFallbackError", "curl": "Refused"}
PARAMS = {"unknown_model": "model", "wrong_parameter": "temperature", "too_long": "messages"}


@pytest.fixture(scope="module")
def keys(stack: Stack, django_db_blocker: DjangoDbBlocker) -> dict[str, str]:
    """A customer's key for each refusal that comes from who asks."""
    now = datetime.now(UTC)
    with django_db_blocker.unblock():
        tier = Tier.objects.create(
            name=factories.unique("one"), requests_per_minute=1, tokens_per_minute=10_000, concurrent_requests=1
        )
        found = {"fine": customer(), "no_balance": customer(pico=0), "too_many": customer(tier=tier.name)}
        found |= {name: customer() for name in ("disabled_key", "disabled_account", "cap_reached")}
        ApiKey.objects.filter(pk=found["disabled_key"].key.pk).update(disabled_at=now)
        Account.objects.filter(pk=found["disabled_account"].account.pk).update(disabled_at=now)
        set_spend_cap(key=found["cap_reached"].key, cap=SpendCap(1, SpendPeriod.TOTAL))
        connection.close()
    assert wire.ask(stack.webs[0], found["too_many"].secret, chat(max_tokens=1)).status == 200
    found["too_many"].let_a_minute_pass(but=3600)  # Its minute lasts as long as these tests.
    secrets = {name: found.get(name, found["fine"]).secret for name in REFUSALS}
    return secrets | {"unknown_key": secrets["no_balance"][:-1] + "x"}


@pytest.fixture(scope="module")
def short(stack: Stack, django_db_blocker: DjangoDbBlocker) -> str:
    """A model with a context of 2000 tokens."""
    with django_db_blocker.unblock():
        model = priced_model(context_tokens=2000, max_output_tokens=2000)
        serve(factories.unique("short"), stack.backend.base_url, model)
        connection.close()
    until(lambda: model.public_id in listed(stack.webs[0]))
    return model.public_id


@pytest.mark.parametrize("do", ["chat", "stream"])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_the_error_that_customers_catch(
    client: Client, runner: Runner, base_url: str, keys: dict[str, str], short: str, refusal: str, do: str
) -> None:
    status, kind, code = REFUSALS[refusal]
    errand = {"text": "Hello!"} | ERRANDS.get(refusal, {}) | ({"model": short} if refusal == "too_long" else {})
    error = runner.refused(do, base_url=base_url, key=keys[refusal], **errand)
    classes = CLASSES.get(client.name, OPENAI_CLASSES)
    expected = OWN_CLASSES.get((client.name, refusal), classes[status])
    assert (error["class"], error["status_code"]) == (expected, status)
    assert WORDS[refusal] in error["message"]
    if client.tells_codes:
        assert (error["type"], error["code"], error["param"]) == (kind, code, PARAMS.get(refusal))


@pytest.mark.of_clients(those=lambda client: client.tells_request_ids)
def test_an_error_names_the_request(client: Client, runner: Runner, base_url: str, keys: dict[str, str]) -> None:
    error = runner.refused("chat", base_url=base_url, key=keys["unknown_key"], text="Hello!")
    assert error["request_id"].startswith("req_")


# The others set headers for a client, not for a call, or not at all.
@pytest.mark.of_clients(those=lambda client: client.name.startswith("openai-python"))
def test_an_idempotency_key_that_is_taken_is_the_error_that_customers_catch(
    stack: Stack, client: Client, runner: Runner, base_url: str, alice: Customer
) -> None:
    taken, text = {"Idempotency-Key": factories.unique("order")}, "[demo: tokens=50 tokens_per_second=10]"
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    with wire.begun(stack.webs[0], alice.secret, body, headers=taken):
        until(lambda: alice.holds)

        def refused(text: str) -> dict[str, Any]:
            options = {"extra_headers": taken}
            return runner.refused("chat", base_url=base_url, key=alice.secret, text=text, options=options)

        running, other = refused(text), refused("Another question")
    assert (running["class"], running["status_code"]) == ("ConflictError", 409)
    assert (running["type"], running["code"]) == ("conflict_error", "idempotency_key_in_use")
    assert (other["class"], other["status_code"]) == ("UnprocessableEntityError", 422)
    assert (other["type"], other["code"]) == ("invalid_request_error", "idempotency_key_reused")
    assert running["param"] == other["param"] == "Idempotency-Key"


def test_an_error_in_the_middle_of_a_stream_is_raised(
    client: Client, runner: Runner, base_url: str, alice: Customer
) -> None:
    error = runner.refused("stream", base_url=base_url, key=alice.secret, text="[demo: error_after=5]")
    assert error["class"] == BROKEN_STREAM.get(client.name, "APIError")
    assert "The model's backend failed; the answer ends here." in error["message"]
    record = alice.only_record()
    assert record.outcome == Outcome.BACKEND_FAILED
    assert 5 <= record.output_tokens <= 10  # Ours to count: a token each, or by their bytes.
