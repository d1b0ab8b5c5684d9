"""Answers: readable English that follows from the request alone.

The same request always gets the same answer. It opens with the topic (the first words of the last user message) and
the model's name, goes on with sentences chosen by a hash of the request, and ends after 40 to 160 tokens or so,
unless a switch, `max_tokens` or a stop string ends it elsewhere. A model with "thinking" in its name reasons first.
Calls of tools and JSON documents (structures.py) take the place of the sentences and are only cut by `max_tokens`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

import msgspec

from flint.sandbox.demo_backend import tokens

NATURAL_TOKENS_MIN = 40
NATURAL_TOKENS_SPREAD = 100
TOPIC_WORDS_MAX = 8
TOPIC_CHARACTERS_MAX = 48
MODEL_CHARACTERS_MAX = 64
# An endless answer cannot be put into one JSON document; there it is this many times longer than asked for.
ENDLESS_FACTOR = 10

_OPENINGS = (
    "You asked about “{topic}”. This is sample text from the demo backend, which stands in for {model}.",
    "Here is a short answer to “{topic}”. The demo backend wrote it on behalf of {model}.",
    "Let us look at “{topic}”. I am the demo backend and I play the part of {model} today.",
)

# A prime number of sentences, so that every stride visits all of them before one comes again.
_SENTENCES = (
    "A good way to begin is to say in one line what a useful result would look like.",
    "Most questions of this kind become easier once they are split into two or three smaller ones.",
    "Write down what is already known, and mark clearly what is only assumed.",
    "A small example often shows more than a long explanation.",
    "Numbers help here, as long as each of them has a unit and a source.",
    "It is worth asking who will read the result and what they will do with it.",
    "When two options look equal, prefer the one that is easier to undo.",
    "The first attempt does not have to be right; it has to show where the difficulty lies.",
    "Try it on the smallest case first, then on the largest one you can think of.",
    "If something surprises you, stop there and find out why before going on.",
    "Simple words are rarely a mistake.",
    "A short list of steps is easier to follow than a page of prose.",
    "Keep the parts that change often away from the parts that must never change.",
    "It helps to explain the idea to somebody who has never heard of it.",
    "Look for the step that takes the most time, because that is the one worth improving.",
    "Check the result in a second way that does not depend on the first.",
    "People have solved similar problems before, and their notes are usually worth an hour of reading.",
    "What looks like a detail at the start often decides how well the whole thing works.",
    "A plan that fits on one page is more likely to be followed.",
    "Leave some room for what you do not know yet.",
    "Once it works, take something away and see whether anybody misses it.",
    "Ask what would have to be true for the opposite to be the better choice.",
    "In the end, the answer should be clear enough that you could repeat it tomorrow without notes.",
)

_THOUGHTS = (
    "The question is about “{topic}”.",
    "First I should settle what is being asked and what is not.",
    "There are a few ways to answer, and a short one is probably best.",
    "I should not claim more than I know.",
    "Let me put the most useful part first.",
    "An example may help, but it must not distract.",
    "That is enough to begin with.",
)


class ToolCall(msgspec.Struct):
    """A function that the client shall call. Its name counts as one token."""

    id: str
    name: str
    arguments: list[str]

    @property
    def token_count(self) -> int:
        return 1 + len(self.arguments)


class Choice(msgspec.Struct):
    """One of the `n` answers to a prompt."""

    reasoning: list[str]
    content: list[str]
    finish_reason: str
    endless: bool = False
    tool_calls: list[ToolCall] = []

    @property
    def token_count(self) -> int:
        return len(self.reasoning) + len(self.content) + sum(call.token_count for call in self.tool_calls)

    def content_tokens(self) -> Iterator[str]:
        return itertools.cycle(self.content or ["…"]) if self.endless else iter(self.content)


def compose(
    *,
    topic: str,
    model: str,
    seed: bytes,
    limit: int | None,
    stops: list[str],
    exact_tokens: int | None = None,
    endless: bool = False,
) -> Choice:
    """`limit` bounds reasoning and content together; `exact_tokens` replaces the natural length."""
    dice = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big")
    facts = {"topic": topic, "model": model[:MODEL_CHARACTERS_MAX]}
    wanted = NATURAL_TOKENS_MIN + dice % NATURAL_TOKENS_SPREAD if exact_tokens is None else exact_tokens
    reasoning: list[str] = []
    if "thinking" in model.lower():
        reasoning = _gather(_thoughts(dice, facts), wanted // 3, exact=exact_tokens is not None)
    content = _gather(_sentences(dice, facts), wanted - len(reasoning), exact=exact_tokens is not None)

    finish_reason = "stop"
    if limit is not None and not endless and len(reasoning) + len(content) > max(0, limit):
        finish_reason = "length"
        reasoning = reasoning[: max(0, limit)]
        content = content[: max(0, limit) - len(reasoning)]
    stopped = _before_stop(content, stops)
    if stopped is not None:
        content, finish_reason, endless = stopped, "stop", False
    return Choice(reasoning=reasoning, content=content, finish_reason=finish_reason, endless=endless)


def compose_document(document: str, *, limit: int | None) -> Choice:
    """A document, and nothing around it."""
    content = tokens.split(document)
    if limit is not None and len(content) > limit:
        return Choice(reasoning=[], content=content[: max(0, limit)], finish_reason="length")
    return Choice(reasoning=[], content=content, finish_reason="stop")


def compose_tool_calls(calls: Iterable[tuple[str, str]], *, seed: bytes, limit: int | None) -> Choice:
    """Calls of functions in place of a text, each a name and its arguments as JSON."""
    choice = Choice(reasoning=[], content=[], finish_reason="tool_calls", tool_calls=[])
    for number, (name, arguments) in enumerate(calls):
        id_ = hashlib.blake2b(seed + bytes([number]), digest_size=12).hexdigest()
        call = ToolCall(id=f"call_{id_}", name=name, arguments=tokens.split(arguments))
        left = call.token_count if limit is None else limit - choice.token_count
        if left < call.token_count:
            choice.finish_reason = "length"
            call.arguments = call.arguments[: max(0, left - 1)]
        if left > 0:
            choice.tool_calls.append(call)
    return choice


def topic_of(text: str) -> str:
    """The first words of a message, as they can stand between quotation marks."""
    words = " ".join(text[:1000].split()[:TOPIC_WORDS_MAX])
    if len(words) > TOPIC_CHARACTERS_MAX:
        words = words[:TOPIC_CHARACTERS_MAX].rsplit(" ", 1)[0]
    return words.strip(" .,;:!?\"'“”") or "your question"


def _sentences(dice: int, facts: dict[str, str]) -> Iterator[str]:
    yield _fill(_OPENINGS[dice % len(_OPENINGS)], facts)
    count = len(_SENTENCES)
    start, stride = dice % count, 1 + (dice >> 8) % (count - 1)
    for step in itertools.count():
        yield " " + _SENTENCES[(start + step * stride) % count]


def _thoughts(dice: int, facts: dict[str, str]) -> Iterator[str]:
    yield _fill(_THOUGHTS[0], facts)
    for step in itertools.count(dice % len(_THOUGHTS)):
        yield " " + _fill(_THOUGHTS[1 + step % (len(_THOUGHTS) - 1)], facts)


def _fill(sentence: str, facts: dict[str, str]) -> str:
    return sentence.format_map(facts)


def _gather(sentences: Iterator[str], wanted: int, *, exact: bool) -> list[str]:
    gathered: list[str] = []
    while len(gathered) < wanted:
        gathered.extend(tokens.split_sentence(next(sentences)))
    return gathered[:wanted] if exact else gathered


def _before_stop(content: list[str], stops: list[str]) -> list[str] | None:
    """The tokens before the first stop string, the last one perhaps shortened; None without a stop string."""
    text = "".join(content)
    found = [position for stop in stops if stop and (position := text.find(stop)) >= 0]
    if not found:
        return None
    kept: list[str] = []
    remaining = min(found)
    for token in content:
        if remaining <= 0:
            break
        kept.append(token[:remaining])
        remaining -= len(token)
    return kept
