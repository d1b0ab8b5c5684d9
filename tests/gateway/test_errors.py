"""Refusals as a whole: none is without words."""

from __future__ import annotations

from billing import refusals
from gateway import errors
from gateway.errors import GenerationNotFound, InvalidKey

# Never counted for an account: nobody is known, or nothing was called.
NOT_COUNTED = {InvalidKey, GenerationNotFound}


def test_the_pages_have_words_for_every_reason_to_refuse_a_call() -> None:
    codes = {code for kind in errors.kinds() if kind not in NOT_COUNTED for code in kind.codes()}
    assert codes - set(refusals.WORDS) == set()
