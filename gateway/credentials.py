"""Backend credentials at rest: Fernet tokens under keys from the environment.

The first key of FLINT_CREDENTIAL_KEYS encrypts, all of them decrypt, so a key is rotated by putting a new one in front.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class CredentialUnreadable(Exception):
    """No key of FLINT_CREDENTIAL_KEYS opens this credential; it must be entered again."""


def encrypt(plaintext: str) -> bytes:
    return _fernet().encrypt(plaintext.encode())


def decrypt(token: bytes) -> str:
    """Raises CredentialUnreadable."""
    try:
        return _fernet().decrypt(token).decode()
    except InvalidToken:
        raise CredentialUnreadable("No key of FLINT_CREDENTIAL_KEYS opens this backend's credential.") from None


def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.CREDENTIAL_KEYS])
