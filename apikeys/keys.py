"""What can be done with keys: create, revoke, find by digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction
from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from accounts.models import Account, User
from apikeys import secret as secrets
from apikeys.models import ApiKey, ApiKeyQuerySet

KEYS_PER_ACCOUNT = 100


class TooManyKeys(Exception):
    """The account has as many usable keys as an account may have."""


class InvalidName(Exception):
    """A key needs a name of 1 to 100 characters."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """All that the gateway must know to let a call in, in one row."""

    key_id: int
    account_id: int
    key_disabled: bool
    account_disabled: bool
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int


def create(*, account: Account, name: str, now: datetime, by: User | None = None) -> tuple[ApiKey, str]:
    """Create a key; returns it with its secret, which is never shown again. Raises InvalidName, TooManyKeys."""
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise InvalidName("A key needs a name of 1 to 100 characters.")
    secret = secrets.generate()
    with transaction.atomic():
        # The lock makes the count true for two creations at the same time.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if ApiKey.objects.of_account(account).usable(now).count() >= KEYS_PER_ACCOUNT:
            raise TooManyKeys(f"An account has at most {KEYS_PER_ACCOUNT} usable keys. Revoke one first.")
        key = ApiKey.objects.create(
            account=account,
            name=name,
            digest=secrets.digest(secret),
            display=secrets.display(secret),
            created_by=by,
        )
    return key, secret


def disable(*, chosen: ApiKeyQuerySet, now: datetime) -> list[ApiKey]:
    """Refuse their calls with 403 until they are enabled again; returns those that this changed."""
    return _set_disabled(chosen.filter(disabled_at=None, revoked_at=None), now)


def enable(*, chosen: ApiKeyQuerySet) -> list[ApiKey]:
    """Let disabled keys work again; returns those that this changed."""
    return _set_disabled(chosen.filter(revoked_at=None).exclude(disabled_at=None), None)


def _set_disabled(chosen: ApiKeyQuerySet, at: datetime | None) -> list[ApiKey]:
    keys = list(chosen)
    ApiKey.objects.filter(pk__in=[key.pk for key in keys]).update(disabled_at=at)
    return keys


def revoke(*, key: ApiKey, now: datetime) -> None:
    """Revoke a key for ever; the first moment of revocation stays."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)
    key.refresh_from_db(fields=["revoked_at"])


async def find(connection: AsyncConnection[object], digest: bytes) -> KeyFacts | None:
    """The facts of a key that is neither unknown, revoked nor expired: one indexed read."""
    async with connection.cursor(row_factory=class_row(KeyFacts)) as cursor:
        await cursor.execute(_FIND, [digest])
        return await cursor.fetchone()


async def disabled(database: AsyncConnection[object], key_ids: Iterable[int]) -> set[int]:
    """Which of these keys may no longer be used: revoked or disabled, or their account is."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_DISABLED, [list(key_ids)])
        return {row[0] for row in await cursor.fetchall()}


_FIND = """
SELECT key.id AS key_id, account.id AS account_id,
       key.disabled_at <= now() IS TRUE AS key_disabled, account.disabled_at <= now() IS TRUE AS account_disabled,
       tier.requests_per_minute, tier.tokens_per_minute, tier.concurrent_requests
  FROM apikeys_apikey key
  JOIN accounts_account account ON account.id = key.account_id
  JOIN accounts_tier tier ON tier.id = account.tier_id
 WHERE key.digest = %s AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
"""

_DISABLED = """
SELECT key.id FROM apikeys_apikey key JOIN accounts_account account ON account.id = key.account_id
 WHERE key.id = ANY(%s) AND least(key.revoked_at, key.disabled_at, account.disabled_at) <= now()
"""
