"""The choices of an answer as SDKs expect them: what backends send is checked, and mended where it is only odd.

A **choice** is one of the `n` answers to a prompt. Only what OpenAI documents goes on: a choice has an index, a message
or its deltas, logprobs and a finish reason; what vendors add (token ids, scores, their own stop reasons) is dropped.
`reasoning_content` is the one addition that clients read, under whichever name it comes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.faults import Fault
from gateway.models import Attempt

# What ends an answer, in the words of OpenAI. A word that is not here means `stop`: the backend did end the answer.
FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    "max_tokens": "length",
    "model_length": "length",
    "repetition": "length",  # Cut off for going round in circles: it is not whole.
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "recitation": "content_filter",
}
# The backend gave up in the middle, which is a failure and not the end of an answer.
GIVEN_UP = frozenset({"abort", "error", "insufficient_system_resource", "cancelled"})

_TEXTS = frozenset({"content", "refusal", "reasoning_content"})
_AS_THEY_ARE = {"audio": dict, "annotations": list}
_CHAT_LOGPROBS = ("content", "refusal")
_TEXT_LOGPROBS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class BackendFailed(Exception):
    """The message is for our logs only.

    `status` is that of its answer, if it was not 200; `retry_after`, in seconds, is what the backend asked for;
    `timed_out`: it may have worked all that time. `fault` says what was wrong with what came, if anything came.
    """

    def __init__(
        self,
        message: str,
        *,
        result: Attempt.Result = Attempt.Result.GARBAGE,
        fault: Fault | None = None,
        status: int | None = None,
        retry_after: int | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.result = result
        self.fault = fault or (Fault.WRONG_SHAPE if result is Attempt.Result.GARBAGE else None)
        self.status = status
        self.retry_after = retry_after
        self.timed_out = timed_out


def finish_reason(given: Any) -> str | None:
    """OpenAI's word for the backend's; None where the answer goes on. Raises BackendFailed where it was given up."""
    if not given or not isinstance(given, str):
        return None
    if given in GIVEN_UP:
        raise BackendFailed(f"it gave up: {given}", fault=Fault.GIVEN_UP)
    return FINISH_REASONS.get(given, "stop")


def whole_chat(given: dict[str, Any], index: int) -> dict[str, Any]:
    """A choice with its whole message. Raises BackendFailed."""
    return {
        "index": index,
        "message": _message(given.get("message")),
        "logprobs": _logprobs(given.get("logprobs"), _CHAT_LOGPROBS),
        "finish_reason": _finished(given),
    }


def whole_text(given: dict[str, Any], index: int) -> dict[str, Any]:
    """A choice of plain completions. Raises BackendFailed."""
    return {
        "index": index,
        "text": _text(given.get("text")) or "",
        "logprobs": _text_logprobs(given.get("logprobs")),
        "finish_reason": _finished(given),
    }


@dataclass(slots=True)
class StreamedText:
    """One choice of a stream of plain completions."""

    index: int
    opened: bool = False
    ended: bool = False

    def pieces(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        """What goes on of the backend's next piece; nothing after the end. Raises BackendFailed."""
        if self.ended:
            return []
        piece = self.silence()
        piece["text"] = _text(given.get("text")) or ""
        piece["logprobs"] = _text_logprobs(given.get("logprobs"))
        piece["finish_reason"] = finish_reason(given.get("finish_reason"))
        self.ended = piece["finish_reason"] is not None
        return [piece]

    def silence(self) -> dict[str, Any]:
        """A piece that says nothing."""
        self.opened = True
        return {"index": self.index, "text": "", "logprobs": None, "finish_reason": None}


@dataclass(slots=True)
class _Tool:
    """A tool call of a stream: which of its parts went out, since SDKs put parts that come twice together."""

    index: int
    id: str
    named: bool = False
    begun: bool = False


@dataclass(slots=True)
class StreamedChat:
    """One choice of a chat stream: a role first and once, deltas, then the finish alone and once."""

    index: int
    opened: bool = False
    ended: bool = False
    _tools: list[_Tool] = field(default_factory=list)
    _tool_at: dict[int, _Tool] = field(default_factory=dict)  # By the index that the backend gave.
    _function_named: bool = False

    def pieces(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        """What goes on of the backend's next piece; nothing after the end. Raises BackendFailed."""
        if self.ended:
            return []
        reason = finish_reason(given.get("finish_reason"))
        delta = self._delta(given.get("delta"))
        pieces = []
        if reason is None or any(delta.values()):
            pieces.append(self._piece(delta))
            if "logprobs" in given:
                pieces[0]["logprobs"] = _logprobs(given["logprobs"], _CHAT_LOGPROBS)
        if reason is not None:
            self.ended = True
            pieces.append(self._piece({}, reason))
        return pieces

    def silence(self) -> dict[str, Any]:
        """A piece that says nothing, or opens the choice."""
        return self._piece(self._opening())

    def _piece(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _opening(self) -> dict[str, Any]:
        if self.opened:
            return {}
        self.opened = True
        return {"role": "assistant", "content": ""}

    def _delta(self, given: Any) -> dict[str, Any]:
        delta = self._opening()
        if not isinstance(given, dict):
            return delta
        for name, value in given.items():
            if value is None:
                continue
            if name in _TEXTS:
                delta[name] = _text(value)
            elif name == "reasoning":
                if isinstance(value, str) and not isinstance(given.get("reasoning_content"), str):
                    delta["reasoning_content"] = value
            elif name == "tool_calls" and isinstance(value, list):
                delta["tool_calls"] = [self._fragment(call) for call in value if isinstance(call, dict)]
            elif name == "function_call" and isinstance(value, dict):
                delta["function_call"] = self._function_call(value)
            elif name in _AS_THEY_ARE and isinstance(value, _AS_THEY_ARE[name]):
                delta[name] = value
        return delta

    def _fragment(self, call: dict[str, Any]) -> dict[str, Any]:
        """A fragment of a tool call: id and type in its first, the name once, and the index always."""
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        tool = self._tool_of(call, name)
        said: dict[str, Any] = {"arguments": _arguments(function.get("arguments"))}
        if not tool.named and isinstance(name, str) and name:
            tool.named = True
            said = {"name": name, **said}
        if tool.begun:
            return {"index": tool.index, "function": said}
        tool.begun = True
        return {"index": tool.index, "id": tool.id, "type": "function", "function": said}

    def _tool_of(self, call: dict[str, Any], name: Any) -> _Tool:
        """Which call the fragment belongs to. Some backends give no index, and some give all calls the same.

        A name with another id begins a call; so does a name without any id or index.
        """
        place, identity = call.get("index"), call.get("id")
        identity = identity if isinstance(identity, str) and identity else None
        place = place if type(place) is int else None
        known = self._tool_at.get(place) if place is not None else self._by_id(identity)
        if known is None and place is None and not name and self._tools:
            known = self._tools[-1]
        if known is None or (name and identity and identity != known.id):
            known = _Tool(len(self._tools), identity or f"call_{uuid.uuid4().hex[:24]}")
            self._tools.append(known)
        if place is not None:
            self._tool_at[place] = known
        return known

    def _by_id(self, identity: str | None) -> _Tool | None:
        return next((tool for tool in self._tools if tool.id == identity), None)

    def _function_call(self, given: dict[str, Any]) -> dict[str, Any]:
        """The older form of a single tool call."""
        said: dict[str, Any] = {"arguments": _arguments(given.get("arguments"))}
        if not self._function_named and isinstance(given.get("name"), str):
            self._function_named = True
            said = {"name": given["name"], **said}
        return said


def _message(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BackendFailed("a choice without a message")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _text(given.get("content")),
        "refusal": _text(given.get("refusal")),
    }
    reasoning = (given.get("reasoning_content"), given.get("reasoning"))
    if found := [text for text in reasoning if isinstance(text, str)]:
        message["reasoning_content"] = found[0]
    if calls := given.get("tool_calls"):
        message["tool_calls"] = _whole_tools(calls)
    if isinstance(function := given.get("function_call"), dict):
        message["function_call"] = _whole_function(function)
    return message | {name: given[name] for name, kind in _AS_THEY_ARE.items() if isinstance(given.get(name), kind)}


def _whole_tools(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BackendFailed("tool calls that are no objects")
    return [
        {
            "id": call["id"] if isinstance(call.get("id"), str) and call["id"] else f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": _whole_function(call.get("function")),
        }
        for call in calls
    ]


def _whole_function(function: Any) -> dict[str, Any]:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BackendFailed("a tool call without a name")
    return {"name": function["name"], "arguments": _arguments(function.get("arguments"))}


def _finished(given: dict[str, Any]) -> str:
    reason = finish_reason(given.get("finish_reason"))
    if reason is None:
        raise BackendFailed("an answer without a finish", fault=Fault.NO_FINISH)
    return reason


def _text(value: Any) -> str | None:
    """A text that may have come as parts."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    raise BackendFailed("a text of another kind")


def _arguments(value: Any) -> str:
    """The arguments of a tool are a text that holds JSON; some backends send the JSON itself."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _logprobs(value: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    return {name: value.get(name) for name in names} if isinstance(value, dict) else None


def _text_logprobs(value: Any) -> dict[str, Any] | None:
    """Lists, each with one fact of every token. llama.cpp sends them as in chats: a list of tokens with their facts."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list) or not all(isinstance(token, dict) for token in content):
        return _logprobs(value, _TEXT_LOGPROBS)
    return {
        "tokens": [token.get("token") for token in content],
        "token_logprobs": [token.get("logprob") for token in content],
        "top_logprobs": [_likely(token.get("top_logprobs")) for token in content],
        "text_offset": None,
    }


def _likely(given: Any) -> dict[str, Any] | None:
    """The likely tokens in the place of one, each with its logprob."""
    if not isinstance(given, list):
        return None
    others = [other for other in given if isinstance(other, dict) and isinstance(other.get("token"), str)]
    return {other["token"]: other.get("logprob") for other in others}
