"""curl, for those who need no package."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.sdk.python import loop
from tests.sdk.python.loop import PIECES_BEFORE_LEAVING, Errand, Note

RESULT = "It is fine."


class Refused(Exception):
    """`status_code` and the rest are as in the answer."""

    def __init__(self, status: int, error: dict[str, Any], request_id: str | None) -> None:
        super().__init__(error["message"])
        self.status_code, self.request_id = status, request_id
        self.code, self.type, self.param = error["code"], error["type"], error["param"]


def _parameters(**properties: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}}


TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": _parameters(city="string", days="integer")}},
    {"type": "function", "function": {"name": "clock", "parameters": _parameters(zone="string")}},
]
HARBOUR = _parameters(name="string", berths="integer", open="boolean")
HARBOUR["properties"]["ships"] = {"type": "array", "items": {"type": "string"}}


def command(errand: Errand, folder: Path, path: str, body: dict[str, Any]) -> list[str]:
    document = folder / "body.json"
    document.write_text(json.dumps({"model": errand.model} | errand.options | body))
    return [
        *("curl", "--silent", "--show-error", "--no-buffer", errand.base_url + path),
        *("-H", f"Authorization: Bearer {errand.key}", "-H", "Content-Type: application/json"),
        *("-d", f"@{document}"),
    ]


def ask(errand: Errand, **body: Any) -> tuple[str, str | None]:
    return post(errand, "/chat/completions", **{"messages": errand.messages} | body)


def post(errand: Errand, path: str, **body: Any) -> tuple[str, str | None]:
    """The body of the answer and the request's id. Raises Refused."""
    with tempfile.TemporaryDirectory() as name:
        answer = Path(name) / "answer"
        told = "%{http_code} %header{x-request-id}"
        options = ["--retry", str(errand.retries), "--output", str(answer), "--write-out", told]
        done = subprocess.run(
            [*command(errand, Path(name), path, body), *options], capture_output=True, text=True, check=True
        )
        status, _, request_id = done.stdout.partition(" ")
        if status != "200":
            raise Refused(int(status), json.loads(answer.read_text())["error"], request_id)
        return answer.read_text(), request_id


def events(answer: str) -> list[Any]:
    """Raises Refused for an error in the middle."""
    found = [json.loads(line[6:]) for line in answer.split("\n") if line.startswith("data: {")]
    if "error" in found[-1]:
        raise Refused(200, found[-1]["error"], None)
    return found


def spent(usage: Any) -> Note:
    return {
        "input": usage["prompt_tokens"],
        "cached": usage["prompt_tokens_details"]["cached_tokens"],
        "output": usage["completion_tokens"],
        "reasoning": usage["completion_tokens_details"]["reasoning_tokens"],
    }


def chat(errand: Errand) -> Note:
    body, request_id = ask(errand)
    answer = json.loads(body)
    choice = answer["choices"][0]
    return {
        "id": answer["id"],
        "text": choice["message"]["content"],
        "finish": choice["finish_reason"],
        "usage": spent(answer["usage"]),
        "request_id": request_id,
    }


def stream(errand: Errand) -> Note:
    body, request_id = ask(errand, stream=True, stream_options={"include_usage": True})
    found = events(body)
    choices = [choice for event in found for choice in event["choices"]]
    return {
        "id": found[0]["id"],
        "text": "".join(choice["delta"].get("content") or "" for choice in choices),
        "finish": choices[-1]["finish_reason"],
        "usage": spent(found[-1]["usage"]),
        "request_id": request_id,
    }


def tools(errand: Errand) -> Note:
    choice = json.loads(ask(errand, tools=TOOLS)[0])["choices"][0]
    return _answer_tools(errand, choice["message"], choice["finish_reason"])


def tools_stream(errand: Errand) -> Note:
    choices = [choice for event in events(ask(errand, tools=TOOLS, stream=True)[0]) for choice in event["choices"]]
    calls: list[Any] = []
    for fragment in [fragment for choice in choices for fragment in choice["delta"].get("tool_calls", [])]:
        if fragment["index"] == len(calls):
            calls.append({key: value for key, value in fragment.items() if key != "index"})
            continue
        calls[fragment["index"]]["function"]["arguments"] += fragment["function"]["arguments"]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return _answer_tools(errand, message, choices[-1]["finish_reason"])


def _answer_tools(errand: Errand, message: Any, finish: str) -> Note:
    calls = message["tool_calls"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in calls]
    errand.options.pop("tool_choice", None)
    answer = json.loads(ask(errand, messages=[*errand.messages, message, *results], tools=TOOLS)[0])
    return {
        "calls": [[call["function"]["name"], json.loads(call["function"]["arguments"])] for call in calls],
        "finish": finish,
        "text": answer["choices"][0]["message"]["content"],
    }


def document(errand: Errand) -> Note:
    form = {"type": "json_schema", "json_schema": {"name": "harbour", "schema": HARBOUR}}
    answer = json.loads(ask(errand, response_format=form)[0])
    return {"document": json.loads(answer["choices"][0]["message"]["content"])}


def leave(errand: Errand) -> Note:
    texts: list[str] = []
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        curl = opened.enter_context(
            subprocess.Popen(
                command(errand, folder, "/chat/completions", {"messages": errand.messages, "stream": True}),
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert curl.stdout is not None
        while len(texts) < PIECES_BEFORE_LEAVING:
            line = curl.stdout.readline()
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                texts += [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]
        curl.terminate()
    return {"text": "".join(texts)}


def models(errand: Errand) -> Note:
    def get(path: str) -> Any:
        command = ["curl", "-sS", errand.base_url + path]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    return {"models": [model["id"] for model in get("/models")["data"]], "one": get(f"/models/{errand.model}")["id"]}


def embed(errand: Errand) -> Note:
    answer = json.loads(post(errand, "/embeddings", input=[errand.text, errand.text])[0])
    return {
        "vectors": [item["embedding"] for item in answer["data"]],
        "usage": {"input": answer["usage"]["prompt_tokens"]},
    }


def complete(errand: Errand) -> Note:
    answer = json.loads(post(errand, "/completions", prompt=errand.text)[0])
    choice = answer["choices"][0]
    return {"text": choice["text"], "finish": choice["finish_reason"], "usage": spent(answer["usage"])}


def complete_stream(errand: Errand) -> Note:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    found = events(post(errand, "/completions", prompt=errand.text, **options)[0])
    choices = [choice for event in found for choice in event["choices"]]
    return {
        "text": "".join(choice["text"] for choice in choices),
        "finish": choices[-1]["finish_reason"],
        "usage": spent(found[-1]["usage"]),
    }


OPERATIONS = {
    "chat": chat,
    "stream": stream,
    "tools": tools,
    "tools_stream": tools_stream,
    "document": document,
    "leave": leave,
    "models": models,
    "embed": embed,
    "complete": complete,
    "complete_stream": complete_stream,
}

if __name__ == "__main__":
    loop.serve(OPERATIONS)
