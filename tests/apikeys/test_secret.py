from __future__ import annotations

import hashlib
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikeys import secret


def test_a_secret_has_its_prefix_32_random_characters_and_6_of_checksum() -> None:
    made = secret.generate()
    assert re.fullmatch(r"tk-[0-9A-Za-z]{38}", made)
    value = 0
    for character in made[-6:]:
        value = value * 62 + secret.ALPHABET.index(character)
    assert value == zlib.crc32(made[3:-6].encode())


def test_secrets_are_well_formed_and_never_the_same() -> None:
    made = {secret.generate() for _ in range(1000)}
    assert len(made) == 1000
    assert all(secret.well_formed(one) for one in made)


def test_every_change_of_one_character_is_refused() -> None:
    made = secret.generate()
    for place in range(len(made)):
        for other in {*secret.ALPHABET, "-", "_", " ", "\u00e9", "\0"} - {made[place]}:
            assert not secret.well_formed(made[:place] + other + made[place + 1 :])


def test_every_swap_of_neighbours_is_refused() -> None:
    made = secret.generate()
    for place in range(len(made) - 1):
        swapped = made[:place] + made[place + 1] + made[place] + made[place + 2 :]
        assert swapped == made or not secret.well_formed(swapped)


@pytest.mark.parametrize(
    "change", [str.upper, str.lower, lambda made: made[:-1], lambda made: made + "0", lambda made: f" {made}"]
)
def test_other_shapes_are_refused(change: object) -> None:
    made = "tk-" + "aB" * 16
    made += secret._checksum(made[3:])
    assert secret.well_formed(made)
    assert callable(change)
    assert not secret.well_formed(change(made))


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    assert not secret.well_formed(text)


def test_only_a_digest_and_a_few_characters_are_kept() -> None:
    made = secret.generate()
    assert secret.digest(made) == hashlib.sha256(made.encode()).digest()
    assert secret.display(made) == f"{made[:7]}...{made[-4:]}"
