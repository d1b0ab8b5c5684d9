"""Everything that is refused before a call begins: the right status, the whole envelope, and no trace anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import Sum

from apikeys import keys, secret
from apikeys.models import ApiKey
from billing.models import RefusedCalls, ReleasedHolds, Wallet
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.wire import Answer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")

NAMELESS = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def refused(
    stack: Stack, answer: Answer, status: int, code: str, *, of: Customer | None = None, param: str | None = None
) -> None:
    """A refusal in the one shape, after which nothing has moved."""
    assert (answer.status, answer.error["code"]) == (status, code), answer.body[:500]
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert isinstance(answer.error["message"], str)
    assert 0 < len(answer.error["message"]) < 1000
    assert isinstance(answer.error["type"], str)
    assert answer.error["param"] == param
    assert answer.headers["content-type"] == "application/json"
    assert stack.backend.entries(str(answer.call_id)) == []
    if of is not None:
        untouched(of)


def untouched(of: Customer, posted: int = 10 * 10**12) -> None:
    wallet = Wallet.objects.filter(pk=of.account.pk).values().get()
    assert wallet["posted"] == posted
    assert not wallet["held"]
    assert (wallet["holds_opened"], wallet["holds_recorded"], wallet["holds_released"]) == (0, 0, 0)
    assert not of.holds
    assert not of.records


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dGstOng=",
        "Bearer sk-0123456789",
        "Bearer tk-short",
        "Bearer tk-" + "A" * 38,  # The checksum is wrong.
        "Bearer tk-" + "é" * 38,
        "Bearer " + "x" * 5000,
        "Bearer " + secret.generate(),  # Well formed, but nobody's.
    ],
)
def test_a_key_that_is_not_one_is_401(stack: Stack, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = wire.ask(stack.webs[0], None, b"not even JSON", headers=headers)
    refused(stack, answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_scheme_in_any_case_and_with_spaces_is_understood(stack: Stack, alice: Customer) -> None:
    headers = {"Authorization": f"  bearer   {alice.secret} "}
    assert wire.ask(stack.webs[0], None, NAMELESS, headers=headers).status == 200


def test_a_revoked_and_an_expired_key_are_401(stack: Stack, alice: Customer) -> None:
    now = datetime.now(UTC)
    keys.revoke(key=alice.key, now=now)
    expired, plaintext = keys.create(account=alice.account, name="old", now=now)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=now - timedelta(seconds=1))
    for each in (alice.secret, plaintext):
        refused(stack, wire.ask(stack.webs[0], each, NAMELESS), 401, "invalid_api_key", of=alice)


def test_a_disabled_key_and_a_disabled_account_are_403(stack: Stack, alice: Customer) -> None:
    ApiKey.objects.filter(pk=alice.key.pk).update(disabled_at=datetime.now(UTC))
    refused(stack, wire.ask(stack.webs[0], alice.secret, b"{"), 403, "key_disabled", of=alice)
    charlie = customer()
    charlie.account.disabled_at = datetime.now(UTC)
    charlie.account.save()
    refused(stack, wire.ask(stack.webs[0], charlie.secret, b"{"), 403, "account_disabled", of=charlie)


@pytest.mark.parametrize("model", ["gpt-4", "DEEPSEEK-V4-FLASH", "deepseek-v4-flash ", "../etc/passwd"])
def test_an_unknown_model_is_404(stack: Stack, alice: Customer, model: str) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(model=model))
    refused(stack, answer, 404, "model_not_found", of=alice, param="model")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"model": "deepseek-v4-flash", "messages": [}',
        b'{"model": "x"} trailing',
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b"\xef\xbb\xbf{}",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"user": "\xff\xfe"}',
        b'{"user": "\\ud800"}',
        b'{"user": "\\ud83d"}',
        b'{"user": "' + b"\x00" + b'"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"user": [' + b"{}," * 1_000_000 + b"{}]}",
        b"model=x&messages=y",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_not_a_json_object_is_400(stack: Stack, alice: Customer, body: bytes) -> None:
    refused(stack, wire.ask(stack.webs[0], alice.secret, body), 400, "invalid_request", of=alice)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" * 5000])
def test_a_number_that_no_machine_can_hold_is_400(stack: Stack, alice: Customer, number: bytes) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, b'{"seed": ' + number + b"}")
    refused(stack, answer, 400, "invalid_request", of=alice)


def test_a_nul_below_300_brackets_is_400(stack: Stack, alice: Customer) -> None:
    body = json.dumps(chat(metadata="here", user="\0")).replace('"here"', "[" * 300 + "]" * 300)
    refused(stack, wire.ask(stack.webs[0], alice.secret, body.encode()), 400, "invalid_request", of=alice)


@pytest.mark.parametrize("text", [{"user": "a\0"}, {"metadata": {"a": ["\0"]}}, {"\0": 1}, {"stop": ["\0"]}])
def test_a_nul_anywhere_is_400(stack: Stack, alice: Customer, text: dict[str, Any]) -> None:
    refused(stack, wire.ask(stack.webs[0], alice.secret, chat(**text)), 400, "invalid_request", of=alice)


def test_a_backslash_u0000_that_is_only_text_is_answered(stack: Stack, alice: Customer) -> None:
    assert wire.ask(stack.webs[0], alice.secret, chat("What is \\u0000 in JSON?")).status == 200


NOT_A_COUNT: list[Any] = [-1, 0, 2**31, 10**30, True, 1.0, 0.5, "5", [], {}]
OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    *[({"max_tokens": value}, "max_tokens") for value in NOT_A_COUNT],
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    *[({"temperature": value}, "temperature") for value in (-0.1, 2.1, "1", True)],
    *[({"top_p": value}, "top_p") for value in (-0.1, 1.1)],
    *[({"presence_penalty": value}, "presence_penalty") for value in (-2.1, 2.1)],
    *[({"frequency_penalty": value}, "frequency_penalty") for value in (-2.1, 2.1)],
    *[({"n": value}, "n") for value in (0, 17, True)],
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"content": "hello"}]}, "messages[0].role"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": "x" * 201}, "model"),
    ({"max_tokens": 10_000_000}, "max_tokens"),  # More than the model can.
]


@pytest.mark.parametrize(("fields", "param"), OUT_OF_BOUNDS, ids=repr)
def test_a_parameter_out_of_bounds_is_400_with_its_name(
    stack: Stack, alice: Customer, fields: dict[str, Any], param: str
) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat() | fields)
    refused(stack, answer, 400, "invalid_request", of=alice, param=param)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_parameter_is_400_with_its_name(stack: Stack, alice: Customer, missing: str) -> None:
    body = {name: value for name, value in chat().items() if name != missing}
    refused(stack, wire.ask(stack.webs[0], alice.secret, body), 400, "invalid_request", of=alice, param=missing)


def test_a_value_of_a_megabyte_is_not_repeated_in_the_message(stack: Stack, alice: Customer) -> None:
    body = chat(messages=[{"role": "x" * 2**20, "content": "x"}])
    answer = wire.ask(stack.webs[0], alice.secret, body)
    refused(stack, answer, 400, "invalid_request", of=alice, param="messages[0].role")


@pytest.mark.parametrize("value", [None, 0, 2, 1e-45])
def test_bounds_are_inclusive_and_null_is_absent(stack: Stack, alice: Customer, value: float | None) -> None:
    body = chat(temperature=value, top_p=None, stop=None, n=None, max_tokens=1, stream_options=None)
    assert wire.ask(stack.webs[0], alice.secret, body).status == 200


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/chat/completions/x", "/v1/%00", "/v1/../v1/x"]
)
def test_an_unknown_url_is_404(stack: Stack, alice: Customer, path: str) -> None:
    refused(stack, wire.ask(stack.webs[0], alice.secret, chat(), path=path), 404, "unknown_url", of=alice)


@pytest.mark.parametrize("path", ["/v1/models/nothing", "/v1/models/a%2Fb", "/v1/models/%00"])
def test_an_unknown_model_to_look_at_is_404(stack: Stack, path: str) -> None:
    refused(stack, wire.ask(stack.webs[0], None, method="GET", path=path), 404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", wire.CHAT, {"POST", "OPTIONS"}),
        ("PUT", wire.CHAT, {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models/deepseek-v4-flash", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_405_with_those_allowed(stack: Stack, method: str, path: str, allowed: set[str]) -> None:
    answer = wire.ask(stack.webs[0], None, b"", method=method, path=path)
    refused(stack, answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_options_and_head_have_no_body(stack: Stack) -> None:
    for method, path, status in (("OPTIONS", wire.CHAT, 204), ("HEAD", "/v1/models", 200)):
        answer = wire.ask(stack.webs[0], None, method=method, path=path)
        assert (answer.status, answer.body) == (status, b"")
        assert answer.call_id


def test_a_wrong_host_is_400(stack: Stack, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(), headers={"Host": "evil.example"})
    refused(stack, answer, 400, "invalid_request", of=alice)


def test_a_trailing_slash_is_served_like_none(stack: Stack, alice: Customer) -> None:
    assert wire.ask(stack.webs[0], alice.secret, chat(), path=f"{wire.CHAT}/").status == 200
    assert wire.ask(stack.webs[0], None, method="GET", path="/v1/models/").status == 200


def test_refusals_are_counted_and_free_failures_are_not_among_them(stack: Stack, alice: Customer) -> None:
    wire.ask(stack.webs[0], alice.secret, chat(model="no-such-model"))
    wire.ask(stack.webs[0], alice.secret, chat(model="no-such-model"))
    failed = wire.ask(stack.webs[0], alice.secret, chat("[demo: status=500]"))
    assert failed.status == 503

    def counts() -> dict[str, int]:
        refusals = RefusedCalls.objects.filter(account=alice.account)
        return dict(refusals.values_list("code").annotate(total=Sum("calls")))

    until(counts)  # Counts are added with the next heartbeat.
    assert counts() == {"model_not_found": 2}
    released = ReleasedHolds.objects.filter(account=alice.account)
    assert dict(released.values_list("reason", "calls")) == {"model_unavailable": 1}
