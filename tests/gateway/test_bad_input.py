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
from gateway.chat import ChatCompletionRequest
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
        pytest.param("Bearer " + secret.generate(), id="well formed, but nobody's"),
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
    body = json.dumps(chat(unheard_of="here", user="\0")).replace('"here"', "[" * 300 + "]" * 300)
    refused(stack, wire.ask(stack.webs[0], alice.secret, body.encode()), 400, "invalid_request", of=alice)


@pytest.mark.parametrize("text", [{"user": "a\0"}, {"metadata": {"a": ["\0"]}}, {"\0": 1}, {"stop": ["\0"]}])
def test_a_nul_anywhere_is_400(stack: Stack, alice: Customer, text: dict[str, Any]) -> None:
    refused(stack, wire.ask(stack.webs[0], alice.secret, chat(**text)), 400, "invalid_request", of=alice)


def test_a_backslash_u0000_that_is_only_text_is_answered(stack: Stack, alice: Customer) -> None:
    assert wire.ask(stack.webs[0], alice.secret, chat("What is \\u0000 in JSON?")).status == 200


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
PARTS: list[tuple[Any, str]] = [
    ({}, ".type"),
    ({"type": "smell"}, ".type"),
    ({"type": 5}, ".type"),
    ({"type": "text"}, ".text"),
    ({"type": "text", "text": 5}, ".text"),
    ({"type": "image_url", "image_url": "https://example.com/a.png"}, ".image_url"),
    ({"type": "image_url", "image_url": {}}, ".image_url.url"),
    *[
        ({"type": "image_url", "image_url": {"url": url}}, ".image_url.url")
        for url in ("", "file:///etc/passwd", "ftp://a/b", "//a/b", 5, " https://a")
    ],
    *[
        ({"type": "image_url", "image_url": {"url": url}}, ".image_url.url")
        for url in ("http://169.254.169.254/latest/meta-data/", "http://localhost:8000/v1/models", "https://redis/")
    ],
    ({"type": "image_url", "image_url": {"url": "https://a/b", "detail": "some"}}, ".image_url.detail"),
    ({"type": "input_audio", "input_audio": {"data": "x"}}, ".input_audio.format"),
    ({"type": "file", "file": "x"}, ".file"),
    *[
        ({"type": "file", "file": {"file_data": url}}, ".file.file_data")
        for url in (
            "http://10.0.0.1/report.pdf",
            " http://10.0.0.1/report.pdf",
            "ht\ttp://10.0.0.1/report.pdf",
            "HTTPS:/10.0.0.1/report.pdf",
            "http:\\\\10.0.0.1\\report.pdf",
        )
    ],
    ({"type": "refusal"}, ".refusal"),
]
SAID_BY_TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"tool_calls": {}}, ".tool_calls"),
    ({"tool_calls": ["add"]}, ".tool_calls[0]"),
    ({"tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}, ".tool_calls[0].id"),
    ({"tool_calls": [{"id": "a", "type": "custom", "function": {}}]}, ".tool_calls[0].type"),
    ({"tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]}, ".tool_calls[0].function.name"),
    ({"tool_calls": [{"id": "a", "function": {"name": "add", "arguments": {}}}]}, ".tool_calls[0].function.arguments"),
    ({"function_call": "add"}, ".function_call"),
]
TOOLS: list[tuple[Any, str]] = [
    ({}, ""),
    (["add"], "[0]"),
    ([{"type": "web_search"}], "[0].type"),
    ([{"type": "function"}], "[0].function"),
    ([{"function": {"name": "add"}}], "[0].type"),
    *[
        ([{"type": "function", "function": {"name": name}}], "[0].function.name")
        for name in ("", "a b", "é", "a" * 65, 5)
    ],
    ([{"type": "function", "function": {"name": "add", "parameters": []}}], "[0].function.parameters"),
    ([{"type": "function", "function": {"name": "add", "strict": 1}}], "[0].function.strict"),
]
CHOICES: list[tuple[Any, str]] = [
    ("sometimes", ""),
    (5, ""),
    ({"type": "function"}, ".function"),
    ({"type": "custom", "function": {"name": "add"}}, ".type"),
    ({"type": "function", "function": {"name": "subtract"}}, ""),
]
FORMATS: list[tuple[Any, str]] = [
    ("json_object", ""),
    ({}, ".type"),
    ({"type": "xml"}, ".type"),
    ({"type": "json_schema"}, ".json_schema"),
    ({"type": "json_schema", "json_schema": {"schema": {}}}, ".json_schema.name"),
    ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, ".json_schema.name"),
    ({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, ".json_schema.schema"),
]
NOT_A_COUNT: list[Any] = [-1, 0, 2**31, 10**30, True, 1.0, 0.5, "5", [], {}]
OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    *[({"max_tokens": value}, "max_tokens") for value in NOT_A_COUNT],
    *[({"max_completion_tokens": value}, "max_completion_tokens") for value in NOT_A_COUNT],
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"max_completion_tokens": 10_000_000}, "max_tokens"),  # More than the model can.
    *[({"temperature": value}, "temperature") for value in (-0.1, 2.1, "1", True)],
    *[({"top_p": value}, "top_p") for value in (-0.1, 1.1)],
    *[({"presence_penalty": value}, "presence_penalty") for value in (-2.1, 2.1)],
    *[({"frequency_penalty": value}, "frequency_penalty") for value in (-2.1, 2.1)],
    *[({"n": value}, "n") for value in (0, 17, True)],
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop[0]"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    *[({"seed": value}, "seed") for value in (1.5, "5", True, 2**63, -(2**63) - 1)],
    *[({"user": value}, "user") for value in (5, ["alice"])],
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": "x"}, "logit_bias"),
    *[({"logit_bias": {"5": value}}, "logit_bias[]") for value in (101, -101, "1")],
    *[({"logprobs": value}, "logprobs") for value in (5, "true")],
    *[({"logprobs": True, "top_logprobs": value}, "top_logprobs") for value in (-1, 21, True, 1.5)],
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 5}, "top_logprobs"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    *[({"reasoning_effort": value}, "reasoning_effort") for value in ("very", 5)],
    ({"metadata": "x"}, "metadata"),
    ({"modalities": ["smell"]}, "modalities[0]"),
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
    *[({"messages": [{"role": "user", "content": [part]}]}, f"messages[0].content[0]{where}") for part, where in PARTS],
    *[({"messages": [{"role": "assistant"} | said]}, f"messages[0]{where}") for said, where in SAID_BY_TOOLS],
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "tool", "content": "4", "tool_call_id": ""}]}, "messages[0].tool_call_id"),
    *[({"tools": value}, f"tools{where}") for value, where in TOOLS],
    ({"tools": [TOOL] * 129}, "tools"),
    *[({"tools": [TOOL], "tool_choice": value}, f"tool_choice{where}") for value, where in CHOICES],
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, "tool_choice"),
    ({"functions": [{"name": "a b"}]}, "functions[0].name"),
    ({"functions": [{"name": "add"}], "function_call": {"name": "subtract"}}, "function_call"),
    ({"function_call": "sometimes"}, "function_call"),
    *[({"response_format": value}, f"response_format{where}") for value, where in FORMATS],
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


def test_every_parameter_may_be_null(stack: Stack, alice: Customer) -> None:
    body = dict.fromkeys(ChatCompletionRequest.__struct_fields__) | chat()
    answer = wire.ask(stack.webs[0], alice.secret, body)
    assert answer.status == 200, answer.body


TALK = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "name": "alice", "content": [
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}},
    ]},
    {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "4"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning_content": "Hm."},
    {"role": "user", "content": "   "},
]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": TALK},
        {"stop": ""},
        {"stop": []},
        {"stop": "a"},
        {"stop": ["a", "b", "c", "d"]},
        {"max_tokens": 7, "max_completion_tokens": 7},
        {"temperature": 1.4e-45},
        {"temperature": 2, "top_p": 0, "presence_penalty": -2, "frequency_penalty": 2.0},
        {"seed": -1, "user": "alice", "logit_bias": {"50256": -100, "1": 1.5}, "metadata": {"a": "b"}},
        {"seed": 2**63 - 1, "logprobs": True, "top_logprobs": 20},
        {"logprobs": True, "top_logprobs": 0},
        {"tools": [TOOL] * 128, "tool_choice": "auto", "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"tools": [], "tool_choice": "none"},
        {"tools": [{"type": "function", "function": {"name": "a" * 64}}], "tool_choice": "required"},
        {"functions": [{"name": "add"}], "function_call": {"name": "add"}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}}},
        {"reasoning_effort": "minimal", "verbosity": "low", "modalities": ["text"]},
        {"stream_options": {"include_usage": True}},
        {"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}, "unheard_of": [1, {"a": None}]},
    ],
    ids=repr,
)
def test_what_is_documented_is_accepted(stack: Stack, alice: Customer, fields: dict[str, Any]) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat(max_tokens=7) | fields)
    assert answer.status == 200, answer.body


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
