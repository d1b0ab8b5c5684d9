"""In which order backends are asked: by priority, and among equals each as often as its weight says.

Calls of one conversation begin alike, and a backend that has read that beginning need not read it again. So the choice
among equals hangs on the beginning and on nothing else (rendezvous hashing): a conversation stays where it is without
anybody remembering it, and only those of a backend that goes or comes move.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence

from gateway.directory import Target
from gateway.requests import Parsed


def conversation(parsed: Parsed, *, account_id: int) -> bytes:
    """What the calls of a conversation have in common; of a call that is no part of one, something of its own."""
    if not parsed.beginning:
        return os.urandom(16)
    owner = f"{account_id} {parsed.request.model} ".encode()
    return hashlib.blake2b(owner + parsed.beginning, digest_size=16).digest()


def in_order(targets: Sequence[Target], conversation: bytes) -> list[Target]:
    return sorted(targets, key=lambda target: (target.priority, _distance(target, conversation)))


def _distance(target: Target, conversation: bytes) -> float:
    """The smallest is first, which a target of weight w is with a chance in proportion to w."""
    digest = hashlib.blake2b(target.backend.encode(), key=conversation, digest_size=8).digest()
    chance = (int.from_bytes(digest) + 1) / 2**64
    return -math.log(chance) / target.weight
