"""HTTP itself: browsers of other sites, odd paths and headers, and the id that every answer carries."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from http.client import HTTPResponse
from urllib.parse import quote
from uuid import UUID

import pytest

from tests import factories
from tests.gateway import wire
from tests.gateway.conftest import listed
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.wire import Answer
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

ORIGIN = {"Origin": "https://app.example"}
# What openai-node sends from a browser, and what a page may add.
ASKED = "authorization,content-type,idempotency-key,x-stainless-arch,x-stainless-lang,x-stainless-retry-count"


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def raw(web: WebProcess, request: bytes) -> Answer:
    """One exchange in the very bytes that are given."""
    with closing(socket.create_connection(("127.0.0.1", web.port), timeout=wire.DEADLINE_SECONDS)) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())


def is_open_to_browsers(answer: Answer) -> None:
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(exposed)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", wire.CHAT, 204),
        ("POST", wire.CHAT, 401),
        ("GET", wire.CHAT, 405),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("OPTIONS", "/v1/nothing", 404),
        ("DELETE", "/v1", 404),
    ],
)
def test_every_answer_has_an_id_of_ours_and_is_open_to_browsers(
    stack: Stack, method: str, path: str, status: int
) -> None:
    own = {"X-Request-Id": "req_" + "0" * 32, **ORIGIN}
    answer = wire.ask(stack.webs[0], None, method=method, path=path, headers=own)
    assert answer.status == status
    assert answer.headers.get_all("x-request-id") == [f"req_{answer.call_id.hex}"]
    assert answer.call_id.version == 7
    is_open_to_browsers(answer)


def test_the_id_of_an_answer_is_that_of_the_request(stack: Stack, alice: Customer) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, chat())
    assert UUID(answer.json["id"].removeprefix("chatcmpl-")) == answer.call_id
    head, events = wire.whole(stack.webs[0], alice.secret, chat())
    is_open_to_browsers(head)
    assert {UUID(event["id"].removeprefix("chatcmpl-")) for event in events if event} == {head.call_id}


def test_a_browser_may_ask_before_it_sends_a_key(stack: Stack) -> None:
    asking = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}
    answer = wire.ask(stack.webs[0], None, method="OPTIONS", path=wire.CHAT, headers=asking)
    assert (answer.status, answer.body) == (204, b"")
    assert (answer.headers["content-type"], answer.headers["content-length"]) == (None, None)
    assert answer.headers["access-control-allow-headers"] == ASKED
    assert answer.headers["access-control-allow-methods"] == answer.headers["allow"] == "POST, OPTIONS"
    assert int(answer.headers["access-control-max-age"]) > 0
    is_open_to_browsers(answer)


def test_head_is_get_without_the_body(stack: Stack) -> None:
    got, head = [wire.ask(stack.webs[0], None, method=method, path="/v1/models") for method in ("GET", "HEAD")]
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", ["//v1/models", "///v1/models", "/v1//models", "/v1/models//", "//v1"])
def test_doubled_slashes_are_404_in_the_envelope(stack: Stack, path: str) -> None:
    answer = wire.ask(stack.webs[0], None, method="GET", path=path)
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_an_unknown_path_is_404_whatever_the_method(stack: Stack, method: str) -> None:
    answer = wire.ask(stack.webs[0], None, method=method, path="/v1/engines")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert method == "HEAD" or answer.error["code"] == "unknown_url"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_a_wrong_method_names_the_right_ones(stack: Stack, method: str) -> None:
    answer = wire.ask(stack.webs[0], None, method=method, path=wire.CHAT)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")
    assert method == "HEAD" or answer.error["code"] == "method_not_allowed"


def test_a_model_id_is_found_however_its_slash_is_written(stack: Stack) -> None:
    model_id = factories.unique("maker/model")
    factories.price(factories.language_model(public_id=model_id))
    until(lambda: model_id in listed(stack.webs[0]))
    for written in (quote(model_id, safe=""), model_id, f"{model_id}/"):
        answer = wire.ask(stack.webs[0], None, method="GET", path=f"/v1/models/{written}")
        assert (answer.status, answer.json["id"]) == (200, model_id)


@pytest.mark.parametrize(
    "model_id", ["%00", "..", "../../admin", "..%2f..%2fadmin", "%ff%fe", "%C3%A9t%C3%A9", "a%0Ab", "x" * 60_000, "%"]
)
def test_an_odd_model_id_is_404_in_the_envelope(stack: Stack, model_id: str) -> None:
    answer = wire.ask(stack.webs[0], None, method="GET", path=f"/v1/models/{model_id}")
    assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")
    assert len(answer.error["message"]) < 300


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: text/plain; a*=nonsense''b",  # A charset that nobody knows.
        b"Content-Type: \xff;;;=",
        b"Accept: application/\xff",
        b"Cookie: sessionid=\xff; csrftoken=x",
        b"X-Forwarded-Proto: https",
    ],
    ids=repr,
)
def test_an_odd_header_makes_no_difference(stack: Stack, alice: Customer, headers: bytes) -> None:
    body = json.dumps(chat()).encode()
    head = f"POST {wire.CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {alice.secret}\r\n"
    answer = raw(stack.webs[0], b"%s%s\r\nContent-Length: %d\r\n\r\n%s" % (head.encode(), headers, len(body), body))
    assert (answer.status, answer.json["object"]) == (200, "chat.completion")


@pytest.mark.parametrize("query", [b"?x=%ff", b"?format=html", b"?" + b"x" * 60_000])
def test_a_query_makes_no_difference(stack: Stack, query: bytes) -> None:
    answer = raw(stack.webs[0], b"GET /v1/models%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % query)
    assert (answer.status, answer.json["object"]) == (200, "list")


def test_http_1_0_is_understood(stack: Stack, alice: Customer) -> None:
    answer = raw(stack.webs[0], b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert (answer.status, answer.json["object"]) == (200, "list")
    head = f"GET /v1/nothing HTTP/1.0\r\nAuthorization: Bearer {alice.secret}\r\nHost: localhost\r\n\r\n"
    assert raw(stack.webs[0], head.encode()).error["code"] == "unknown_url"
