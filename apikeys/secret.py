"""The secret of an API key: how it is made, recognised and hashed. The only place that knows its plaintext form.

    tk- + 32 random base62 characters (190 bits) + 6 base62 digits of their CRC-32

The checksum lets a mistyped or made-up key be refused without any I/O, and lets secret scanners be sure. Plain
SHA-256 is the right hash for a secret of this entropy: a slow one would only be a lever for denial of service.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "tk-"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_LENGTH = 32
CHECKSUM_LENGTH = 6
LENGTH = len(PREFIX) + RANDOM_LENGTH + CHECKSUM_LENGTH
_CHARACTERS = frozenset(ALPHABET)


def generate() -> str:
    """A new secret, for one customer to see once."""
    random = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return PREFIX + random + _checksum(random)


def well_formed(secret: str) -> bool:
    """Whether prefix, length, alphabet and checksum are right; says nothing of whether the key exists."""
    if len(secret) != LENGTH or not secret.startswith(PREFIX):
        return False
    random, checksum = secret[len(PREFIX) : -CHECKSUM_LENGTH], secret[-CHECKSUM_LENGTH:]
    return _CHARACTERS.issuperset(random) and checksum == _checksum(random)


def digest(secret: str) -> bytes:
    """SHA-256, 32 bytes: all that is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def display(secret: str) -> str:
    """What may be shown of a secret afterwards: tk-Ab12...wxyz."""
    return f"{secret[:7]}...{secret[-4:]}"


def _checksum(random: str) -> str:
    number = zlib.crc32(random.encode())
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
