from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.urls import reverse

from apikeys import keys
from apikeys.models import ApiKey
from tests import people

pytestmark = pytest.mark.django_db


def key_of_alice() -> tuple[ApiKey, str]:
    account, _ = people.customer("alice")
    return keys.create(account=account, name="laptop", now=datetime.now(UTC))


def act(action: str, key: ApiKey) -> None:
    changelist = reverse("admin:apikeys_apikey_changelist")
    response = people.superuser().post(changelist, {"action": action, "_selected_action": [key.pk]})
    assert response.status_code == 302
    key.refresh_from_db()


def test_a_key_is_disabled_and_enabled() -> None:
    key, _ = key_of_alice()

    act("disable", key)
    assert key.disabled_at is not None

    act("enable", key)
    assert key.disabled_at is None


def test_a_key_is_revoked_for_ever() -> None:
    key, _ = key_of_alice()

    act("revoke", key)
    revoked_at = key.revoked_at
    assert revoked_at is not None

    act("revoke", key)
    act("enable", key)
    assert key.revoked_at == revoked_at


def test_the_page_shows_neither_the_secret_nor_its_digest() -> None:
    key, secret = key_of_alice()

    content = people.superuser().get(reverse("admin:apikeys_apikey_change", args=[key.pk])).content.decode()

    assert key.display in content
    assert secret not in content
    assert bytes(key.digest).hex() not in content
