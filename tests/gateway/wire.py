"""HTTP as a test wants to see it: whole answers, and streams read event by event and left at any moment."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from tests.gateway import grammar
from tests.stack import WebProcess

DEADLINE_SECONDS = 15.0
CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.json["error"])

    @property
    def call_id(self) -> UUID:
        return UUID(self.headers["x-request-id"].removeprefix("req_"))

    @property
    def retry_after(self) -> int:
        return int(self.headers["retry-after"])

    def left(self, kind: str) -> int:
        """What the limit of `requests` or `tokens` has left."""
        return int(self.headers[f"x-ratelimit-remaining-{kind}"])


def ask(
    web: WebProcess,
    secret: str | None,
    body: Any = None,
    *,
    method: str = "POST",
    path: str = CHAT,
    headers: Mapping[str, str] | None = None,
    chunked: bool = False,
) -> Answer:
    """One exchange on a connection of its own; a body that is not bytes is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    authorization = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=DEADLINE_SECONDS)) as connection:
        pieces = iter([body[at : at + 2**20] for at in range(0, len(body), 2**20)]) if chunked else body
        connection.request(method, path, pieces, {**authorization, **(headers or {})}, encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


class Stream:
    """The answer to a streamed call, as it comes. One that is read to its end must keep to the grammar."""

    def __init__(self, connection: http.client.HTTPConnection, *, usage_asked: bool = False) -> None:
        self._connection = connection
        self._usage_asked = usage_asked
        self._read: list[bytes] = []
        self._response = connection.getresponse()
        self.status = self._response.status
        self.answer = Answer(self.status, self._response.headers, b"")

    @property
    def call_id(self) -> UUID:
        return self.answer.call_id

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Each event as it arrives; [DONE] is None. Ends with the body."""
        while line := self._response.readline():
            self._read.append(line)
            data = line.removeprefix(b"data: ").strip()
            if data:
                yield None if data == b"[DONE]" else json.loads(data)
        if self.status == 200:
            grammar.check(b"".join(self._read), usage_asked=self._usage_asked)

    def read(self, texts: int) -> list[str]:
        """So many pieces of text."""
        found: list[str] = []
        for event in self.events():
            found += texts_of(event)
            if len(found) >= texts:
                return found
        raise AssertionError(f"The stream ended after {found}.")

    def rest(self) -> list[dict[str, Any] | None]:
        return list(self.events())

    def hang_up(self) -> None:
        self._response.close()
        self._connection.close()


@contextmanager
def stream(web: WebProcess, secret: str, body: dict[str, Any], **options: Any) -> Iterator[Stream]:
    with begun(web, secret, body | {"stream": True}, **options) as connection:
        usage_asked = bool(body.get("stream_options", {}).get("include_usage"))
        opened = Stream(connection, usage_asked=usage_asked)
        try:
            yield opened
        finally:
            opened.hang_up()


@contextmanager
def begun(
    web: WebProcess,
    secret: str,
    body: dict[str, Any],
    *,
    path: str = CHAT,
    headers: Mapping[str, str] | None = None,
) -> Iterator[http.client.HTTPConnection]:
    """A call that was sent and whose answer nobody has read; leaving hangs up."""
    with closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=DEADLINE_SECONDS)) as connection:
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {secret}", **(headers or {})})
        yield connection


def whole(web: WebProcess, secret: str, body: dict[str, Any]) -> tuple[Answer, list[dict[str, Any] | None]]:
    """A stream read to its end: the answer's head, and all events."""
    with stream(web, secret, body) as opened:
        assert opened.status == 200, opened._response.read()
        return opened.answer, opened.rest()


def events_of(body: bytes) -> list[dict[str, Any] | None]:
    """The events of a stream that was read before; [DONE] is None."""
    data = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [None if item == b"[DONE]" else json.loads(item) for item in data]


def texts_of(event: dict[str, Any] | None) -> list[str]:
    deltas = [choice["delta"] for choice in (event or {}).get("choices", [])]
    return [text for delta in deltas if (text := delta.get("content") or delta.get("reasoning_content"))]
