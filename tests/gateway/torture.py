"""Streams and answers that break SDKs when they are passed on as they come, and what customers are to see of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.gateway.scripted import DONE, Step, chunk, usage

TEXT = "Hello there"
START, END = [chunk("Hello"), chunk(" there")], [chunk(finish="stop"), usage(7, 2), DONE]
PLAIN = b"".join([*START, *END])
ERROR = b'data: {"error":{"message":"worker 10.0.0.12 died","type":"server_error","code":500}}\n\n'
# Two letters of three bytes, and a line end that only some split at.
ODD_TEXT = "潮\u2028汐"

Calls = list[tuple[str, dict[str, Any]]]  # Name and arguments of each.


@dataclass(frozen=True)
class Row:
    """`asked` goes into the request. A row that fails is an error frame after the text."""

    name: str
    script: Sequence[Step]
    text: str = TEXT
    finish: str = "stop"
    calls: Calls = field(default_factory=list)
    tokens: tuple[int, int] | None = (7, 2)  # Prompt and completion; None where the backend never told.
    fails: bool = False
    asked: dict[str, Any] = field(default_factory=dict)


def event(delta: dict[str, Any], *, index: Any = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": None, **fields}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def tool(call: str | None, name: str | None, arguments: str | None, *, index: int | None = None) -> dict[str, Any]:
    given = {"index": index, "id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
    return given if index is not None else {key: value for key, value in given.items() if key != "index"}


def tools(*fragments: dict[str, Any]) -> list[bytes]:
    finish = event({}, finish_reason="tool_calls")
    return [*[event({"role": "assistant", "tool_calls": [fragment]}) for fragment in fragments], finish, *END[1:]]


def with_usage(piece: bytes, prompt: int, completion: int) -> bytes:
    body = json.loads(piece.removeprefix(b"data: "))
    body["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def answer(message: Any, *, finish: Any = "stop", **fields: Any) -> bytes:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish, **fields}], "created": 1.5}
    return json.dumps(body | {"usage": {"prompt_tokens": 7, "completion_tokens": 2}, "prompt_logprobs": [1]}).encode()


ONE: Calls = [("weather", {"city": "Kiel", "days": 1})]
BOTH: Calls = [*ONE, ("clock", {"zone": "CET"})]
# The arguments of both, in one piece and in two.
CITY, ZONE = '{"city": "Kiel", "days": 1}', '{"zone": "CET"}'
CITY_1, CITY_2, ZONE_1, ZONE_2 = '{"city": "Ki', 'el", "days": 1}', '{"zone"', ': "CET"}'
ROWS = [
    Row("ok", [PLAIN]),
    Row("comments", [b": keep-alive\n\n", START[0], b": OPENROUTER PROCESSING\n\n", START[1], *END]),
    Row("two hundred comments", [b": keep-alive\n\n" * 200, *START, b":\n\n" * 200, *END]),
    Row("crlf", [PLAIN.replace(b"\n", b"\r\n")]),
    Row("no space", [PLAIN.replace(b"data: ", b"data:")]),
    Row("no empty lines", [PLAIN.replace(b"\n\n", b"\n")]),
    Row("mark of byte order", [b"\xef\xbb\xbf" + PLAIN]),
    Row("byte by byte", bytewise(PLAIN)),
    Row("letters cut in two", bytewise(b"".join([chunk(ODD_TEXT).replace(json.dumps(ODD_TEXT).encode(),
        json.dumps(ODD_TEXT, ensure_ascii=False).encode()), *END])), text=ODD_TEXT),
    Row("json on several lines", [b'data: {"choices":\ndata: [{"index": 0, "delta":\n',
        b'data: {"content": "Hello there"}}]}\n\n', *END]),
    Row("nulls", [event({"content": "Hello there", "tool_calls": None, "refusal": None}, logprobs=None), *END]),
    Row("reasoning", [event({"reasoning": "Hm"}), event({"reasoning_content": "hm", "content": None}), *START, *END]),
    Row("no done", [*START, *END[:-1]]),
    Row("nothing but a finish", [*END], text=""),
    Row("truncated", START, fails=True),
    Row("done without a finish", [*START, DONE], fails=True),
    Row("finish of null", [*START, chunk(finish=None), usage(7, 2), DONE], fails=True),
    Row("given up", [*START, chunk(finish="abort"), usage(7, 2), DONE], fails=True),
    Row("error frame", [*START, ERROR, DONE], fails=True),
    Row("error event", [*START, b"event: error\n" + ERROR, DONE], fails=True),
    Row("error after a comment", [b": hello\n\n", *START, b": hello\n\n", ERROR], fails=True),
    Row("error inside a chunk", [*START, event({"content": ""}, error={"message": "no"}).replace(b'{"choices"',
        b'{"error": {"message": "no"}, "choices"')], fails=True),
    Row("id and a comment", [b"id: 7\n\n", b": a comment\n\n", *START, *END]),
    Row("ping", [START[0], b"event: ping\n\n", b"event: ping\ndata:\n\n", START[1], *END]),
    Row("retry", [b"retry: 3000\n\n", *START, *END]),
    Row("empty data", [START[0], b"data:\n\n", b"data: \n\n", START[1], *END]),
    Row("role in every delta", [event({"role": "assistant", "content": text}) for text in ("Hello", " there")] + END),
    Row("tool parts repeated", tools(tool("call_1", "weather", CITY_1, index=0),
        tool("call_1", "weather", CITY_2, index=0)), text="", finish="tool_calls", calls=ONE),
    Row("tool without an index", tools(tool("call_1", "weather", CITY_1), tool(None, None, CITY_2),
        tool("call_2", "clock", ZONE)), text="", finish="tool_calls", calls=BOTH),
    Row("tools in odd places", tools(tool("call_1", "weather", CITY, index=5), tool("call_2", "clock", ZONE_1, index=9),
        tool(None, None, ZONE_2, index=9)), text="", finish="tool_calls", calls=BOTH),
    Row("tools in one place", tools(tool("call_1", "weather", CITY, index=0), tool("call_2", "clock", ZONE, index=0)),
        text="", finish="tool_calls", calls=BOTH),
    Row("the second choice first", [event({"content": "no"}, index=1), *START, event({}, index=1, finish_reason="stop"),
        END[0], usage(7, 4), DONE], asked={"n": 2}, tokens=(7, 4)),
    Row("usage on the finish", [*START, with_usage(END[0], 7, 2)]),
    Row("usage in the choice", [*START, chunk(finish="stop").replace(b'"index"', b'"usage": {"prompt_tokens": 7, '
        b'"completion_tokens": 2}, "index"'), DONE]),
    Row("usage in a vendor's place", [*START, chunk(finish="stop", x_groq={"id": "req_1", "usage": {"prompt_tokens": 7,
        "completion_tokens": 2, "queue_time": 0.07}}), DONE]),
    Row("usage on every chunk", [with_usage(START[0], 7, 1), with_usage(START[1], 7, 2), with_usage(END[0], 7, 2),
        DONE]),
    Row("usage without choices", [*START, END[0], END[1].replace(b'"choices": [], ', b""), DONE]),
    Row("usage never", [*START, END[0], DONE], tokens=None),
    Row("usage that is absurd", [*START, END[0], usage(-7, 2), DONE], tokens=None),
    Row("unknown finish", [*START, chunk(finish="eos_token"), usage(7, 2), DONE]),
    Row("text in the finish", [START[0], chunk(" there", finish="stop"), usage(7, 2), DONE]),
    Row("something after the finish", [*START, END[0], chunk("!"), chunk(finish="length"), usage(7, 2), DONE]),
    Row("something after done", [PLAIN, *START]),
]  # fmt: skip

WHOLE = answer({"role": "assistant", "content": TEXT})
# JSON answers. One that fails is a 503, and free.
WHOLES = [
    Row("ok", [WHOLE]),
    Row("blank lines first", [b"\n\n", b"\r\n\n", WHOLE]),
    Row("mark of byte order", [b"\xef\xbb\xbf" + WHOLE]),
    Row("byte by byte", bytewise(WHOLE)),
    Row("vendors' fields", [answer({"content": TEXT, "role": "tool", "token_ids": [1]}, stop_reason=5, logprobs=5)]),
    Row("content in parts", [answer({"content": [{"type": "text", "text": TEXT}]})]),
    Row("reasoning", [answer({"content": TEXT, "reasoning": "Hm"})]),
    Row("unknown finish", [answer({"content": TEXT}, finish="eos_token")]),
    Row("arguments that are no text", [answer({"content": "", "tool_calls": [{"function": {"name": "weather",
        "arguments": ONE[0][1]}}]}, finish="tool_calls")], text="", finish="tool_calls", calls=ONE),
    Row("finish of null", [answer({"content": TEXT}, finish=None)], fails=True),
    Row("given up", [answer({"content": TEXT}, finish="abort")], fails=True),
    Row("truncated", [WHOLE[:-20]], fails=True),
    Row("a stream", [PLAIN], fails=True),
    Row("nothing", [b""], fails=True),
    Row("an error", [b'{"error": {"message": "worker 10.0.0.12 died"}}'], fails=True),
    Row("an old error", [b'{"object": "error", "message": "worker 10.0.0.12 died", "code": 500}'], fails=True),
    Row("a list", [b"[" + WHOLE + b"]"], fails=True),
    Row("content that is no text", [answer({"content": 5})], fails=True),
    Row("no message", [answer(None)], fails=True),
    Row("two answers for one", [WHOLE.replace(b"[{", b'[{"message": {}, "finish_reason": "stop"}, {', 1)], fails=True),
]  # fmt: skip
