"""A silent backend and a customer who does not read: who hears what, who is given up, and what waits where."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from billing.models import ReleasedHolds
from billing.usage import Outcome, Source
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, Lab
from tests.gateway.customers import Customer, chat, customer
from tests.gateway.processes import web_process
from tests.gateway.scripted import DONE, Endless, chunk, usage
from tests.gateway.wire import texts_of
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

OPENING = {"role": "assistant", "content": ""}
# One token each, and bytes that nobody counts.
LARGE = chunk("a", logprobs={"content": [{"token": "a", "logprob": 0.0, "bytes": [1] * 4000}]})


@pytest.fixture(scope="module")
def web(stack: Stack, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """One that loses its patience sooner."""
    seconds = {"KEEPALIVE": "1", "SLOW_READER": "2", "IDLE": "3", "ANSWER": "5"}
    environment = {f"GATEWAY_{name}_SECONDS": value for name, value in seconds.items()}
    with web_process(tmp_path_factory.mktemp("pulse"), **environment) as one:
        yield one


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def delta_of(event: dict[str, Any] | None) -> Any:
    assert event is not None
    return event["choices"][0]["delta"]


def read_all(connection: socket.socket) -> bytes:
    """What was on its way, until the connection ends."""
    read = b""
    while piece := connection.recv(2**16):
        read += piece
    return read


def test_silence_before_the_first_token_opens_the_stream(web: WebProcess, lab: Lab, alice: Customer) -> None:
    first = threading.Event()
    lab.scripted.play(first, chunk("one"), chunk(finish="stop"), usage(3, 1), DONE)
    with wire.stream(web, alice.secret, chat(model=lab.of_script)) as opened:
        events = opened.events()
        assert [delta_of(next(events)), delta_of(next(events))] == [OPENING, {}]
        first.set()
        assert [texts for event in events if (texts := texts_of(event))] == [["one"]]
    record = alice.only_record()
    assert (record.outcome, record.source, record.output_tokens) == (Outcome.COMPLETED, Source.BACKEND, 1)


def test_silence_between_two_tokens_is_filled_with_chunks_that_say_nothing(
    web: WebProcess, lab: Lab, alice: Customer
) -> None:
    second = threading.Event()
    lab.scripted.play(chunk("one"), second, chunk(" two"), chunk(finish="stop"), usage(3, 2), DONE)
    with wire.stream(web, alice.secret, chat(model=lab.of_script, stream_options={"include_usage": True})) as opened:
        events = opened.events()
        assert delta_of(next(events)) == OPENING | {"content": "one"}
        started = time.monotonic()
        assert [delta_of(next(events)), delta_of(next(events))] == [{}, {}]
        assert 1.5 < time.monotonic() - started < 3
        second.set()
        assert "".join(text for event in events for text in texts_of(event)) == " two"


def test_plain_completions_have_a_pulse_of_their_own(web: WebProcess, lab: Lab, alice: Customer) -> None:
    body = {"model": lab.completion, "prompt": "[demo: first_token_ms=1500 tokens=2]", "max_tokens": 5}
    with wire.stream(web, alice.secret, body, path="/v1/completions") as opened:
        first, *rest = opened.rest()
    assert first is not None
    assert first["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]
    assert rest[-1] is None
    assert alice.only_record().output_tokens == 2


def test_another_backend_is_asked_behind_an_open_stream(
    web: WebProcess, stack: Stack, lab: Lab, alice: Customer
) -> None:
    body = chat("[demo: hang_before only_attempts=1]", model=lab.of_two, max_tokens=4)
    head, events = wire.whole(web, alice.secret, body)
    assert delta_of(events[0]) == OPENING
    assert sum(len(texts_of(event)) for event in events) == 4
    assert [entry["attempt"] for entry in stack.backend.entries(str(head.call_id))] == ["1", "2"]
    record = alice.only_record()
    assert (record.outcome, record.backend, record.attempt) == (Outcome.COMPLETED, lab.second, 2)


def test_a_failure_behind_an_open_stream_is_an_error_frame_and_free(web: WebProcess, lab: Lab, alice: Customer) -> None:
    leave = threading.Event()
    lab.scripted.play(leave)
    with wire.stream(web, alice.secret, chat(model=lab.of_script)) as opened:
        assert delta_of(next(opened.events())) == OPENING
        leave.set()
        *_, error, done = opened.rest()
    assert error is not None
    assert (error["error"]["code"], done) == ("model_unavailable", None)
    until(lambda: not alice.holds)
    assert not alice.records
    assert ReleasedHolds.objects.get(account=alice.account).reason == "model_unavailable"


def test_a_failure_before_the_first_keep_alive_has_its_own_status(web: WebProcess, lab: Lab, alice: Customer) -> None:
    lab.scripted.play()
    assert wire.ask(web, alice.secret, chat(model=lab.of_script, stream=True)).status == 503


def test_hanging_up_on_keep_alives_pays_the_prompt(web: WebProcess, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(threading.Event())
    with wire.stream(web, alice.secret, chat(model=lab.of_script)) as opened:
        next(opened.events())
    left_at = time.monotonic()
    record = alice.only_record()
    assert (record.outcome, record.output_tokens) == (Outcome.CLIENT_CLOSED, 0)
    assert record.charge == record.input_tokens * INPUT_RATE > 0
    assert until(lambda: lab.scripted.left_at) - left_at < 1


def test_a_json_answer_may_take_longer_than_a_stream_may_be_silent(
    web: WebProcess, stack: Stack, alice: Customer
) -> None:
    body = chat("[demo: first_token_ms=3600 tokens=2]")
    assert wire.ask(web, alice.secret, body).json["usage"]["completion_tokens"] == 2
    _, (*_, error, _) = wire.whole(web, alice.secret, body)
    assert error is not None
    assert error["error"]["code"] == "model_unavailable"


def test_a_json_answer_that_does_not_come_in_time_is_free_and_not_asked_for_again(
    web: WebProcess, lab: Lab, alice: Customer
) -> None:
    lab.scripted.play(threading.Event())
    answer = wire.ask(web, alice.secret, chat(model=lab.of_script))
    assert (answer.status, answer.error["code"]) == (503, "model_unavailable")
    assert answer.headers["x-should-retry"] == "false"
    assert lab.scripted.calls == 1
    until(lambda: lab.scripted.left_at)
    until(lambda: not alice.holds)
    assert not alice.records


def test_who_does_not_read_stops_the_backend_and_is_given_up(web: WebProcess, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(Endless(LARGE))
    with closing(socket.socket()) as customers:
        customers.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        customers.connect(("127.0.0.1", web.port))
        body = json.dumps(chat(model=lab.of_script, stream=True, logprobs=True, max_tokens=10_000))
        head = f"POST {wire.CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {alice.secret}\r\n"
        customers.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        record = alice.only_record()
        customers.settimeout(5)
        assert not read_all(customers).endswith(b"0\r\n\r\n")
    assert record.outcome == Outcome.CLIENT_CLOSED
    assert record.duration_ms is not None
    assert 2_000 <= record.duration_ms < 6_000
    assert lab.scripted.left_at is not None
    # All that was relayed, and waited in the buffers of sockets most of all.
    assert lab.scripted.sent < 24 * 2**20
    until(lambda: alice.taken()[2] == 0)


def test_who_reads_slowly_gets_it_all(web: WebProcess, lab: Lab, alice: Customer) -> None:
    lab.scripted.play(*[LARGE] * 500, chunk(finish="stop"), usage(3, 500), DONE)
    body = chat(model=lab.of_script, logprobs=True, stream=True)
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)) as connection:
        connection.request("POST", wire.CHAT, json.dumps(body), {"Authorization": f"Bearer {alice.secret}"})
        response = connection.getresponse()
        read = b""
        while piece := response.read(2**19):
            read += piece
            time.sleep(0.1)  # The reader's pace is what this test is about.
    assert read.count(b'"content":"a"') == 500
    assert alice.only_record().output_tokens == 500
