"""The number that ties a token to the sign-in it was made for."""

from __future__ import annotations

import hmac
from typing import Any

from allauth.socialaccount.providers.base import ProviderException


def check(login: Any) -> None:
    """Raises ProviderException where the token was made for another sign-in."""
    token = login.account.extra_data["id_token"]
    if not hmac.compare_digest(str(token.get("nonce")).encode(), login.state["nonce"].encode()):
        raise ProviderException("The nonce is another one.")
