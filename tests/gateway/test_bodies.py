"""The ways in which a body may come: any type, packed, in chunks, large, announced wrongly; and how much of it fits."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest

from apikeys import secret
from gateway import bodies
from gateway.bodies import Body, Room
from gateway.errors import BodyTooLarge, InvalidRequest, Unavailable
from tests.gateway import wire
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.wire import Answer
from tests.stack import Stack, WebProcess

pytestmark = pytest.mark.usefixtures("committed")

MEGABYTE = 2**20
LARGEST_BODIES = bodies.ROOM_BYTES // bodies.COPIES // bodies.BODY_LIMIT  # So many fit at once.
SAID = json.dumps(chat("Does it matter how this comes?", max_tokens=5)).encode()


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def refused(stack: Stack, answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code), answer.body[:500]
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    assert stack.backend.entries(str(answer.call_id)) == []


# Whatever the headers say of it.


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json; charset=utf-8",
        "application/json; charset=klingon",
        "application/x-www-form-urlencoded",  # As `curl -d` says.
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "nonsense",
        "text/plain; " + "x" * 20_000,
    ],
)
def test_the_type_of_a_body_makes_no_difference(stack: Stack, alice: Customer, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = wire.ask(stack.webs[0], alice.secret, SAID, headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/event-stream", "image/png;q=x", ","])
def test_what_is_accepted_makes_no_difference(stack: Stack, alice: Customer, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = wire.ask(stack.webs[0], alice.secret, SAID, headers=headers, path=f"{wire.CHAT}?format=api")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    streamed = wire.ask(stack.webs[0], alice.secret, chat(stream=True, max_tokens=1), headers=headers)
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(SAID)),
        (" GZip ", gzip.compress(SAID)),
        ("x-gzip", gzip.compress(SAID)),
        ("deflate", zlib.compress(SAID)),
        ("identity", SAID),
        ("", SAID),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_packed_body_means_what_it_unpacks_to(
    stack: Stack, alice: Customer, encoding: str, packed: bytes, chunked: bool
) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, packed, headers={"Content-Encoding": encoding}, chunked=chunked)
    assert answer.status == 200, answer.body
    assert answer.json["usage"] == wire.ask(stack.webs[0], alice.secret, SAID).json["usage"]


def test_a_packed_body_of_ten_megabytes_arrives_whole(stack: Stack, alice: Customer) -> None:
    body = json.dumps(chat("x", metadata={"end": "there", "padding": "ab" * (5 * MEGABYTE)}, max_tokens=1)).encode()
    answer = wire.ask(stack.webs[0], alice.secret, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        SAID,
        gzip.compress(b""),
        gzip.compress(SAID)[:-1],
        gzip.compress(SAID)[:-8] + b"\0" * 8,  # The checksum is wrong.
        gzip.compress(SAID) + b"more",
        gzip.compress(SAID) + gzip.compress(SAID),
        gzip.compress(b"\xff\xfe"),
        gzip.compress(gzip.compress(SAID)),
        zlib.compress(SAID),
    ],
    ids=range(10),
)
def test_a_body_that_is_not_packed_as_it_says_is_400(stack: Stack, alice: Customer, packed: bytes) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, packed, headers={"Content-Encoding": "gzip"})
    refused(stack, answer, 400, "invalid_request")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "nonsense", "*"])
def test_an_unknown_packing_is_415_and_the_known_ones_are_told(stack: Stack, alice: Customer, encoding: str) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, SAID, headers={"Content-Encoding": encoding})
    refused(stack, answer, 415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


# How much of it there may be.


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_40_megabytes_is_413(stack: Stack, alice: Customer, chunked: bool) -> None:
    answer = wire.ask(stack.webs[0], alice.secret, b" " * (40 * MEGABYTE), chunked=chunked)
    refused(stack, answer, 413, "request_too_large")


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * MEGABYTE) for _ in range(megabytes)), packer.flush()])


def test_a_bomb_is_413_and_never_unpacked(stack: Stack, alice: Customer) -> None:
    packed = bomb(200)
    assert len(packed) < MEGABYTE
    process = psutil.Process(stack.webs[0].process.pid)
    before, highest = process.memory_info().rss, 0
    answers: list[Answer] = []

    def throw() -> None:
        answers.append(wire.ask(stack.webs[0], alice.secret, packed, headers={"Content-Encoding": "gzip"}))

    threads = [threading.Thread(target=throw) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        highest = max(highest, process.memory_info().rss)
        time.sleep(0.005)
    assert len(answers) == 4
    for answer in answers:
        refused(stack, answer, 413, "request_too_large")
    assert highest - before < 300 * MEGABYTE


async def unpacked(packed: bytes, room: Room) -> bytes:
    body = Body(room, announced=len(packed), encoding="gzip")
    await body.expect()
    for at in range(0, len(packed), 2**16):
        await body.add(packed[at : at + 2**16])
    return body.whole()


@pytest.mark.parametrize("size", [0, 1, bodies.PART_BYTES, bodies.PART_BYTES + 1, MEGABYTE + 1, bodies.BODY_LIMIT])
def test_what_was_packed_is_unpacked_whatever_its_size(size: int) -> None:
    packed = gzip.compress(b"ab" * (size // 2) + b"c" * (size % 2))
    assert asyncio.run(unpacked(packed, Room())) == b"ab" * (size // 2) + b"c" * (size % 2)


def test_one_byte_more_than_the_limit_is_too_much() -> None:
    with pytest.raises(BodyTooLarge):
        asyncio.run(unpacked(gzip.compress(b"x" * (bodies.BODY_LIMIT + 1)), Room()))


def test_half_of_a_packed_body_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        asyncio.run(unpacked(gzip.compress(SAID)[:-9], Room()))


# The room that large ones share.


def test_a_large_body_waits_until_there_is_room() -> None:
    async def story() -> None:
        room = Room()
        first = [Body(room, announced=bodies.BODY_LIMIT, encoding="") for _ in range(LARGEST_BODIES)]
        for body in first:
            await body.expect()
        second = Body(room, announced=bodies.BODY_LIMIT, encoding="")
        waiting = asyncio.create_task(second.expect())
        small = Body(room, announced=bodies.LARGE_BODY, encoding="")
        await small.expect()
        await small.add(b"x" * bodies.LARGE_BODY)
        assert not waiting.done()
        first[0].forget()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(story())


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_body_of_unknown_size_takes_the_most_and_gives_back_what_it_did_not_need(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(count: int) -> None:
        room = Room()
        plain = b"x" * (2 * MEGABYTE)
        for _ in range(count):
            body = Body(room, announced=0, encoding=encoding)
            await body.add(gzip.compress(plain) if encoding else plain)
            body.whole()

    monkeypatch.setattr(bodies, "ROOM_SECONDS", 0.01)
    count = (bodies.ROOM_BYTES // bodies.COPIES - bodies.BODY_LIMIT) // (2 * MEGABYTE)
    with pytest.raises(Unavailable):
        asyncio.run(story(count + 2))  # The last one finds no room for the most.
    asyncio.run(story(count))


def test_all_room_is_there_again_whatever_happened() -> None:
    async def story() -> None:
        room = Room()
        for _ in range(50):
            body = Body(room, announced=bodies.BODY_LIMIT, encoding="")
            await body.expect()
            await body.add(b"x" * MEGABYTE)
            body.whole()
            body.forget()
            body.forget()

    asyncio.run(story())


def test_a_body_that_finds_no_room_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ROOM_SECONDS", 0.05)

    async def story() -> None:
        room = Room()
        for _ in range(LARGEST_BODIES + 1):
            await Body(room, announced=bodies.BODY_LIMIT, encoding="").expect()

    with pytest.raises(Unavailable):
        asyncio.run(story())


def test_while_large_bodies_wait_small_ones_pass(stack: Stack, alice: Customer) -> None:
    large = SAID.ljust(bodies.BODY_LIMIT)
    answers: list[Answer] = []
    head = (key_of(alice), b"Content-Length: %d" % bodies.BODY_LIMIT, b"Expect: 100-continue")
    with ExitStack() as opened:
        for _ in range(LARGEST_BODIES):
            # The server asks for a body once there is room for it.
            assert first_line(opened.enter_context(sent(stack.webs[0], *head))) == b"HTTP/1.1 100 Continue"
        waiting = threading.Thread(target=lambda: answers.append(wire.ask(stack.webs[0], alice.secret, large)))
        waiting.start()
        assert wire.ask(stack.webs[0], alice.secret, SAID).status == 200
        waiting.join(0.3)
        assert waiting.is_alive(), answers
    waiting.join(15)
    assert [answer.status for answer in answers] == [200]


def test_a_call_that_was_accepted_needs_no_room_for_its_body(stack: Stack, alice: Customer) -> None:
    slow = json.dumps(chat("[demo: tokens_per_second=2 tokens=100]", max_tokens=100, stream=True)).encode()
    body = slow.ljust(bodies.BODY_LIMIT)
    with ExitStack() as opened:
        for _ in range(LARGEST_BODIES):
            length = b"Content-Length: %d" % len(body)
            stream = opened.enter_context(sent(stack.webs[0], key_of(alice), length, body=body)).makefile("rb")
            assert any(line.startswith(b"data: ") for line in iter(stream.readline, b""))
        head = (key_of(alice), b"Content-Length: %d" % bodies.BODY_LIMIT, b"Expect: 100-continue")
        with sent(stack.webs[0], *head) as connection:
            connection.settimeout(bodies.ROOM_SECONDS / 2)
            assert first_line(connection) == b"HTTP/1.1 100 Continue"


# What HTTP itself allows.


@contextmanager
def sent(web: WebProcess, *head: bytes, body: bytes = b"") -> Iterator[socket.socket]:
    """A request as it stands here, byte by byte."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: 127.0.0.1", *head, b"", b""]
        connection.sendall(b"\r\n".join(lines) + body)
        yield connection


def first_line(connection: socket.socket) -> bytes:
    return connection.makefile("rb").readline().strip()


def key_of(alice: Customer) -> bytes:
    return b"Authorization: Bearer " + alice.secret.encode()


@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)])
@pytest.mark.parametrize(
    ("is_known", "head", "status"),
    [
        (False, [b"Content-Length: 10"], b"401 Unauthorized"),
        (True, [b"Content-Length: 41943040"], b"413 Request Entity Too Large"),
        (True, [b"Content-Length: 10", b"Content-Encoding: br"], b"415 Unsupported Media Type"),
    ],
)
def test_a_refused_body_is_not_waited_for(
    stack: Stack, alice: Customer, expect: tuple[bytes, ...], is_known: bool, head: list[bytes], status: bytes
) -> None:
    key = key_of(alice) if is_known else b"Authorization: Bearer " + secret.generate().encode()
    with sent(stack.webs[0], key, *head, *expect) as connection:
        assert first_line(connection) == b"HTTP/1.1 " + status


def test_a_body_that_asks_first_is_told_to_come(stack: Stack, alice: Customer) -> None:
    head = (key_of(alice), b"Content-Length: %d" % len(SAID), b"Expect: 100-continue", b"Connection: close")
    with sent(stack.webs[0], *head) as connection, connection.makefile("rb") as answer:
        assert [answer.readline(), answer.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        connection.sendall(SAID)
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"


def test_two_requests_sent_at_once_are_answered_in_order(stack: Stack, alice: Customer) -> None:
    length = b"Content-Length: %d" % len(SAID)
    second = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with sent(stack.webs[0], key_of(alice), length, body=SAID + second) as connection:
        answers = connection.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.index(b"chat.completion") < answers.index(b'"object":"list"')


@pytest.mark.parametrize(
    "head",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 5x"],
        [b"Content-Length: " + b"9" * 30],
        [b"Transfer-Encoding: gzip"],
        [b"Content-Length: 5", b" Folded: x"],
    ],
    ids=repr,
)
def test_a_body_of_doubtful_length_is_refused(stack: Stack, alice: Customer, head: list[bytes]) -> None:
    with sent(stack.webs[0], key_of(alice), *head, b"Connection: close", body=SAID) as connection:
        assert first_line(connection).startswith(b"HTTP/1.1 4")
    assert not alice.records
    assert not alice.holds


def test_a_body_that_ends_before_its_announced_length_calls_nobody(stack: Stack, alice: Customer) -> None:
    with sent(stack.webs[0], key_of(alice), b"Content-Length: %d" % (len(SAID) + 1), body=SAID) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert first_line(connection) in (b"", b"HTTP/1.1 400 Bad Request")
    assert alice.wallet.holds_opened == 0


@pytest.mark.parametrize("name", ["a" * 70_000, "b"])
def test_headers_without_end_are_refused_by_the_server(stack: Stack, name: str) -> None:
    head = [f"X-{name}-{number}: {'x' * 1000}".encode() for number in range(100)]
    with sent(stack.webs[0], *head) as connection:
        assert first_line(connection).startswith(b"HTTP/1.1 4")


def test_a_url_without_end_is_refused_by_the_server(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.webs[0].port), timeout=10) as connection:
        connection.sendall(b"GET /v1/" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert first_line(connection).startswith(b"HTTP/1.1 4")


def test_the_answer_does_not_depend_on_any_header_we_do_not_know(stack: Stack, alice: Customer) -> None:
    headers: dict[str, Any] = {"X-Forwarded-For": "1.2.3.4", "OpenAI-Beta": "x", "anthropic-version": "1", "Range": "x"}
    assert wire.ask(stack.webs[0], alice.secret, SAID, headers=headers).status == 200
