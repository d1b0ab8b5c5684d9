"""What a token is here: a rule simple enough that anyone can count along.

A token is up to six letters or digits with at most one white space before them, or up to two other signs with at
most one white space before them, or up to eight white spaces. Every token holds at least one character, hence at
least one byte of UTF-8: a text never has more tokens than bytes.
"""

from __future__ import annotations

import functools
import re

MESSAGE_TOKENS = 4  # What a chat template adds around a message; `"role":"x"` alone is longer than that.
PART_TOKENS = 64  # An image or another part that is not text.

_TOKEN = re.compile(r"\s?\w{1,6}|\s?[^\w\s]{1,2}|\s{1,8}")


def split(text: str) -> list[str]:
    """The tokens of a text; joined, they are the text again."""
    return _TOKEN.findall(text)


@functools.lru_cache(maxsize=1024)
def split_sentence(sentence: str) -> tuple[str, ...]:
    """The tokens of a sentence that is likely to come again."""
    return tuple(_TOKEN.findall(sentence))


def count(text: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(text))
