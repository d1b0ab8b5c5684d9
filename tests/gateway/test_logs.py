"""What is logged: one JSON object a line, and every line of a request says which one it is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from billing.tasks import settle_usage
from flint.sandbox import servers
from tests.gateway import wire
from tests.gateway.conftest import Lab, listed
from tests.gateway.customers import chat, customer
from tests.stack import Stack, WebProcess, until, worker

pytestmark = pytest.mark.usefixtures("committed")

Line = dict[str, Any]


@pytest.fixture(scope="module")
def web(stack: Stack, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    started = WebProcess(tmp_path_factory.mktemp("json") / "web.log", LOG_FORMAT="json")
    try:
        started.wait_until_ready()
        until(lambda: lab.of_closed_port in listed(started))
        yield started
    finally:
        started.stop()


def lines(log: Path) -> list[Line]:
    """All of them; one that is not JSON fails the test."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def about(answer: wire.Answer, web: WebProcess) -> list[Line]:
    """The lines of one exchange, once it has ended."""
    wanted = answer.headers["x-request-id"]

    def ended() -> list[Line]:
        found = [line for line in lines(web.log) if line.get("request_id") == wanted]
        return found if found and "status" in found[-1] else []

    return until(ended)


def test_each_line_of_a_call_says_whose_it_is_and_which_backend_it_tried(web: WebProcess, lab: Lab) -> None:
    alice = customer()
    answer = wire.ask(web, alice.secret, chat("Hello", model=lab.of_closed_port))
    *attempts, last = about(answer, web)
    assert attempts
    for line in (*attempts, last):
        assert line["account_id"] == alice.account.pk
        assert line["call_id"] == str(answer.call_id)
        assert line["model"] == lab.of_closed_port
        assert line["backend"].startswith("closed")
        assert line["attempt"] == 1
    assert attempts[0].keys() >= {"time", "level", "logger", "message", "pid"}
    assert (last["status"], last["level"]) == (503, "INFO")
    assert last["message"] == "POST of v1/chat/completions has ended"


def test_calls_at_the_same_time_do_not_get_each_others_fields(web: WebProcess, lab: Lab) -> None:
    alice = customer()
    models = [lab.of_closed_port, lab.of_nobody, lab.of_two] * 10
    with ThreadPoolExecutor(len(models)) as pool:
        answers = list(pool.map(lambda model: wire.ask(web, alice.secret, chat("Hello", model=model)), models))
    for model, answer in zip(models, answers, strict=True):
        assert {line.get("model") for line in about(answer, web)} == {model}, answer.body


def test_what_is_refused_at_the_door_is_logged_with_its_id_and_without_its_url(web: WebProcess) -> None:
    (line,) = about(wire.ask(web, None, path="/v1/tk-somebody", method="GET"), web)
    assert (line["status"], line["message"]) == (404, "GET of an unknown URL has ended")
    assert "account_id" not in line


def test_a_request_of_the_site_has_an_id_as_well(web: WebProcess) -> None:
    answer = wire.ask(web, None, path="/nowhere/", method="GET")
    wanted = answer.headers["x-request-id"]
    found = until(lambda: [line for line in lines(web.log) if line.get("request_id") == wanted])
    assert [line["logger"] for line in found] == ["django.request"]


def test_the_servers_own_lines_are_json_and_belong_to_no_request(web: WebProcess) -> None:
    (started,) = [line for line in lines(web.log) if line["message"].startswith("Started server process")]
    assert started["logger"].startswith("uvicorn")
    assert "request_id" not in started


def test_the_worker_says_whose_calls_it_settles(stack: Stack, lab: Lab) -> None:
    alice = customer()
    answer = wire.ask(stack.webs[0], alice.secret, chat("Hello", model=lab.of_two))
    log = stack.webs[0].log.with_name("worker.log")
    until(lambda: answer.headers["x-request-id"] in log.read_text(), 10)


def test_a_worker_logs_its_tasks_as_json(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with (
        servers.valkey(tmp_path / "broker") as broker,
        # Whether it runs as root is warned of before anything is configured.
        worker(log, CELERY_BROKER_URL=broker.url, LOG_FORMAT="json", PYTHONWARNINGS="ignore"),
    ):
        with settle_usage.app.connection_for_write(broker.url) as connection:
            sent = settle_usage.apply_async(  # type: ignore[call-arg]
                kwargs={"account_ids": [], "request_ids": ["req_1"]}, connection=connection
            )
        until(lambda: "succeeded" in log.read_text(), 20)
        # Read before it stops, of which it tells the terminal in its own words.
        (done,) = [line for line in lines(log) if "succeeded" in line["message"]]
    assert done["task"] == "billing.tasks.settle_usage"
    assert done["task_id"] == sent.id
    assert done["request_ids"] == ["req_1"]
