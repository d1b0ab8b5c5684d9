"""Which backend is asked first: by priority, then by weight, and always the same one for a conversation."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from gateway import requests, routing
from gateway.chat import ChatCompletionRequest
from gateway.directory import Target
from gateway.requests import Dialect

CONVERSATIONS = 10_000
SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do tides work?"}


def target(name: str, *, weight: int = 1, priority: int = 0) -> Target:
    return Target(name, "http://gpu/v1", None, "any", priority, weight, Dialect())


def conversation(*messages: dict[str, Any], account_id: int = 1, model: str = "m") -> bytes:
    body = msgspec.json.encode({"model": model, "messages": messages})
    parsed = asyncio.run(requests.parse(body, ChatCompletionRequest))
    return routing.conversation(parsed, account_id=account_id)


def firsts(*targets: Target) -> list[str]:
    """The first choice of many conversations."""
    return [routing.in_order(targets, number.to_bytes(16))[0].backend for number in range(CONVERSATIONS)]


def test_a_lower_priority_comes_first_whatever_its_weight() -> None:
    heavy, light = target("heavy", weight=100, priority=1), target("light")
    assert all(routing.in_order([heavy, light], bytes([n])) == [light, heavy] for n in range(100))


def test_equals_are_chosen_as_often_as_their_weights_say() -> None:
    shares = Counter(firsts(target("one"), target("two", weight=2), target("seven", weight=7)))
    assert {name: shares[name] / CONVERSATIONS for name in shares} == pytest.approx(
        {"one": 0.1, "two": 0.2, "seven": 0.7}, abs=0.015
    )


def test_only_the_conversations_of_a_backend_that_goes_move_and_they_spread() -> None:
    one, two, three = target("one"), target("two"), target("three")
    before, after = firsts(one, two, three), firsts(one, two)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {"three"}
    assert Counter(new for _, new in moved)["one"] / len(moved) == pytest.approx(0.5, abs=0.05)


def test_a_conversation_stays_the_same_while_it_goes_on() -> None:
    answer, more = {"role": "assistant", "content": "By the moon."}, {"role": "user", "content": "And the sun?"}
    assert conversation(SYSTEM, QUESTION) == conversation(SYSTEM, QUESTION, answer, more)


def test_others_are_other_conversations() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "What is this?"}]}
    found = [
        conversation(SYSTEM, QUESTION),
        conversation(SYSTEM, QUESTION, account_id=2),
        conversation(SYSTEM, QUESTION, model="other"),
        conversation(QUESTION),
        conversation(SYSTEM, QUESTION | {"content": "Why?"}),
        conversation(SYSTEM, parts),
    ]
    assert len(set(found)) == len(found)
