"""What can be done with keys: create, rename, disable, rotate, revoke; and what the gateway asks of them and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from accounts import audit
from accounts.audit import Action
from accounts.models import Account, User
from apikeys import secret as secrets
from apikeys.models import ApiKey, ApiKeyQuerySet, SpendPeriod

KEYS_PER_ACCOUNT = 100
NAME_LENGTH = 100
LARGEST_LIMIT = 2**31 - 1
PICO_PER_USD = 10**12  # As in billing, which keys do not know.


class TooManyKeys(Exception):
    """The account has as many usable keys as an account may have."""


class InvalidName(Exception):
    """A key needs a name of 1 to 100 characters."""


class InvalidLimit(Exception):
    """A limit is a positive number, or None."""


class InvalidCap(ValueError):
    """A spend cap is a positive amount for a period, which a BIGINT can hold."""


class AlreadyCreated(Exception):
    """This form has made its key before; the secret was shown then, and never again."""

    def __init__(self, key: ApiKey) -> None:
        super().__init__(f"The key {key.name!r} exists already.")
        self.key = key


class NotUsable(Exception):
    """Only a key that works can be rotated, and only once."""


_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")


@dataclass(frozen=True, slots=True)
class SpendCap:
    """The most that a line of keys may spend in each period, in pico-USD. Raises InvalidCap."""

    amount: int
    period: SpendPeriod

    def __post_init__(self) -> None:
        if not 0 < self.amount < 2**63:
            raise InvalidCap("A spend cap is more than nothing, and less than a wallet can hold.")

    def __str__(self) -> str:
        whole, decimals = divmod(self.amount, PICO_PER_USD)
        return f"{f'{whole}.{decimals:012d}'.rstrip('0').rstrip('.')} USD {self.period.label}"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """All that the gateway must know to let a call in, in one row.

    The limits are those of the account, for all of its keys together, and those of the key alone; None is no limit.
    """

    key_id: int
    account_id: int
    key_disabled: bool
    account_disabled: bool
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    key_requests_per_minute: int | None = None
    key_tokens_per_minute: int | None = None
    key_concurrent_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Naming:
    """How a key is told from others."""

    name: str
    display: str
    created_at: datetime
    expires_at: datetime | None


def create(
    *,
    account: Account,
    name: str,
    now: datetime,
    lifetime: timedelta | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrent_requests: int | None = None,
    cap: SpendCap | None = None,
    creation_id: UUID | None = None,
    by: User | None = None,
) -> tuple[ApiKey, str]:
    """Create a key; returns it with its secret, which is never shown again.

    Raises InvalidName, InvalidLimit, TooManyKeys, and AlreadyCreated for a second call with the same `creation_id`.
    """
    name = _checked(name)
    limits = _checked_limits(requests_per_minute, tokens_per_minute, concurrent_requests)
    with transaction.atomic():
        _lock(account)
        _insist_on_first(account, creation_id)
        if ApiKey.objects.of_account(account).usable(now).filter(successor=None).count() >= KEYS_PER_ACCOUNT:
            raise TooManyKeys(f"An account has at most {KEYS_PER_ACCOUNT} usable keys. Revoke one first.")
        expires_at = now + lifetime if lifetime else None
        key, secret = _insert(
            account=account,
            name=name,
            expires_at=expires_at,
            creation_id=creation_id,
            created_by=by,
            **dict(zip(_LIMITS, limits, strict=True)),
            **_columns(cap),
        )
        audit.record(Action.KEY_CREATED, account=account, by=by, object=str(key))
        if any(limits):
            _record_limits(key, (None, None, None), limits, by)
        if cap:
            _record_cap(key, None, cap, by)
    return key, secret


def rename(*, key: ApiKey, name: str, by: User | None = None) -> None:
    """Raises InvalidName."""
    name = _checked(name)
    with transaction.atomic():
        before = ApiKey.objects.select_for_update(no_key=True).values_list("name", flat=True).get(pk=key.pk)
        if name == before:
            return
        key.name = name
        key.save(update_fields=["name"])
        audit.record(Action.KEY_RENAMED, account=key.account, by=by, object=str(key), details={"before": before})


def set_expiry(*, key: ApiKey, expires_at: datetime | None, by: User | None = None) -> None:
    """For staff: customers choose when they create or rotate."""
    with transaction.atomic():
        key.expires_at = expires_at
        key.save(update_fields=["expires_at"])
        details = {"ends": _told(expires_at) if expires_at else "never"}
        audit.record(Action.KEY_EXPIRY_SET, account=key.account, by=by, object=str(key), details=details)


def set_limits(
    *,
    key: ApiKey,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent_requests: int | None,
    by: User | None = None,
) -> None:
    """Give the key limits of its own; those of the account stay in force beside them. None: the account's alone.

    The gateway follows within a second. Raises InvalidLimit.
    """
    limits = _checked_limits(requests_per_minute, tokens_per_minute, concurrent_requests)
    with transaction.atomic():
        held = ApiKey.objects.select_for_update(no_key=True).values_list(*_LIMITS)
        before = held.get(pk=key.pk)
        if before == limits:
            return
        key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests = limits
        key.save(update_fields=_LIMITS)
        _record_limits(key, before, limits, by)


def cap_of(key: ApiKey) -> SpendCap | None:
    return None if key.spend_cap is None else SpendCap(key.spend_cap, SpendPeriod(key.spend_period))


def set_spend_cap(*, key: ApiKey, cap: SpendCap | None, by: User | None = None) -> None:
    """Let the keys of this key's line spend at most so much together; None lifts the cap. Holds for the next call.

    What was spent in the running period counts. A call that runs while a cap is set is never stopped; it counts when it
    is settled.
    """
    with transaction.atomic():
        _lock(key.account)  # So that a rotation copies the one cap or the other.
        # Locked in the order of ids, as whoever notes uses does.
        line = list(ApiKey.objects.of_line(key.line_id).select_for_update(no_key=True).order_by("pk"))
        before = cap_of(line[0])
        if cap == before:
            return
        ApiKey.objects.of_line(key.line_id).update(**_columns(cap))
        _record_cap(key, before, cap, by)
    key.refresh_from_db(fields=["spend_cap", "spend_period"])


def disable(*, chosen: ApiKeyQuerySet, now: datetime, by: User | None = None) -> list[ApiKey]:
    """Refuse their calls with 403 until they are enabled again; returns those that this changed."""
    with transaction.atomic():
        return _set_disabled(_locked(chosen).filter(disabled_at=None), now, Action.KEY_DISABLED, by)


def enable(*, chosen: ApiKeyQuerySet, by: User | None = None) -> list[ApiKey]:
    """Let disabled keys work again; returns those that this changed."""
    with transaction.atomic():
        return _set_disabled(_locked(chosen).exclude(disabled_at=None), None, Action.KEY_ENABLED, by)


def revoke(*, key: ApiKey, now: datetime, by: User | None = None) -> None:
    """Revoke a key for ever; the first moment of revocation stays."""
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
            audit.record(Action.KEY_REVOKED, account=key.account, by=by, object=str(key))
    key.refresh_from_db(fields=["revoked_at"])


def rotate(
    *, key: ApiKey, overlap: timedelta, now: datetime, creation_id: UUID | None = None, by: User | None = None
) -> tuple[ApiKey, str]:
    """A new key in the place of this one, which ends after the overlap; returned with its secret, as `create` does.

    The new one has the name, the limits, the spend cap, and the lifetime if the old one had one. What the old one has
    spent in the running period counts for the new one, too. Raises NotUsable, TooManyKeys and AlreadyCreated.
    """
    with transaction.atomic():
        _lock(key.account)
        _insist_on_first(key.account, creation_id)
        ours = ApiKey.objects.of_account(key.account).usable(now)
        old = ours.filter(pk=key.pk, successor=None).select_for_update(no_key=True, of=["self"]).first()
        if old is None:
            raise NotUsable("Only a key that works and was not rotated before can be rotated.")
        # Keys on their way out have places of their own, so that an account with all its keys can rotate them.
        if ours.exclude(successor=None).count() >= KEYS_PER_ACCOUNT:
            raise TooManyKeys(f"At most {KEYS_PER_ACCOUNT} rotated keys may still work. Wait for one to end.")
        made, secret = _insert(
            account=key.account,
            name=old.name,
            expires_at=now + (old.expires_at - old.created_at) if old.expires_at else None,
            creation_id=creation_id,
            created_by=by,
            replaces=old,
            **{limit: getattr(old, limit) for limit in _LIMITS},
            first_id=old.line_id,
            **_columns(cap_of(old)),
        )
        old.expires_at = min(now + overlap, old.expires_at or now + overlap)
        old.save(update_fields=["expires_at"])
        details = {"ends": _told(old.expires_at) if overlap else "at once"}
        audit.record(Action.KEY_ROTATED, account=key.account, by=by, object=str(old), details=details)
    return made, secret


def _checked(name: str) -> str:
    """Without what a browser would not show, so that who revokes a key can type its name."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= NAME_LENGTH:
        raise InvalidName(f"A key needs a name of 1 to {NAME_LENGTH} characters.")
    return name


def _checked_limits(*limits: int | None) -> tuple[int | None, ...]:
    if not all(limit is None or 1 <= limit <= LARGEST_LIMIT for limit in limits):
        raise InvalidLimit(f"A limit is a number from 1 to {LARGEST_LIMIT:,}.")
    return limits


def _record_limits(
    key: ApiKey, before: tuple[int | None, ...], limits: tuple[int | None, ...], by: User | None
) -> None:
    details = {"before": _told_limits(*before), "limits": _told_limits(*limits)}
    audit.record(Action.KEY_LIMITS_SET, account=key.account, by=by, object=str(key), details=details)


def _record_cap(key: ApiKey, before: SpendCap | None, cap: SpendCap | None, by: User | None) -> None:
    details = {"before": str(before or "none"), "cap": str(cap or "none")}
    audit.record(Action.KEY_CAP_SET, account=key.account, by=by, object=str(key), details=details)


def _columns(cap: SpendCap | None) -> dict[str, Any]:
    return {"spend_cap": cap.amount if cap else None, "spend_period": cap.period if cap else ""}


def _told(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _told_limits(requests: int | None, tokens: int | None, concurrent: int | None) -> str:
    units = {"requests/minute": requests, "tokens/minute": tokens, "concurrent": concurrent}
    return ", ".join(f"{limit:,} {unit}" for unit, limit in units.items() if limit is not None) or "the account's"


def _lock(account: Account) -> None:
    """Counts stay true, and forms are seen twice, when two keys are created at the same time."""
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)


def _insist_on_first(account: Account, creation_id: UUID | None) -> None:
    if creation_id and (made := ApiKey.objects.of_account(account).filter(creation_id=creation_id).first()):
        raise AlreadyCreated(made)


def _insert(**fields: object) -> tuple[ApiKey, str]:
    secret = secrets.generate()
    key = ApiKey.objects.create(digest=secrets.digest(secret), display=secrets.display(secret), **fields)
    return key, secret


def _locked(chosen: ApiKeyQuerySet) -> ApiKeyQuerySet:
    """Those that are not revoked, in an order that cannot deadlock. A choice by joins could not be locked itself."""
    found = ApiKey.objects.filter(pk__in=[key.pk for key in chosen], revoked_at=None)
    return found.select_related("account").select_for_update(no_key=True, of=["self"]).order_by("pk")


def _set_disabled(chosen: ApiKeyQuerySet, at: datetime | None, action: Action, by: User | None) -> list[ApiKey]:
    keys = list(chosen)
    ApiKey.objects.filter(pk__in=[key.pk for key in keys]).update(disabled_at=at)
    for key in keys:
        audit.record(action, account=key.account, by=by, object=str(key))
    return keys


async def find(connection: AsyncConnection[object], digests: Sequence[bytes]) -> dict[bytes, KeyFacts]:
    """The facts of those keys that are neither unknown, revoked nor expired, by digest: indexed reads of one query."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FIND, [list(digests)])
        return {bytes(digest): KeyFacts(*facts) for digest, *facts in await cursor.fetchall()}


async def naming(connection: AsyncConnection[object], key_id: int) -> Naming:
    """Of a key that there is."""
    async with connection.cursor(row_factory=class_row(Naming)) as cursor:
        await cursor.execute(_NAMING, [key_id])
        rows = await cursor.fetchall()
    return rows[0]


async def disabled(database: AsyncConnection[object], key_ids: Iterable[int]) -> set[int]:
    """Which of these keys may no longer be used: revoked or disabled, or their account is."""
    async with database.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_DISABLED, [list(key_ids)])
        return {row[0] for row in await cursor.fetchall()}


async def note_uses(database: AsyncConnection[object], ages: Mapping[int, float]) -> None:
    """Note when keys were last used: `ages` are seconds ago, so that the database's clock alone decides.

    A later use that another process noted stays.
    """
    await database.execute(_NOTE_USES, [list(ages), list(ages.values())])


_FIND = """
SELECT key.digest, key.id, account.id, key.disabled_at <= now() IS TRUE, account.disabled_at <= now() IS TRUE,
       tier.requests_per_minute, tier.tokens_per_minute, tier.concurrent_requests,
       key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests
  FROM apikeys_apikey key
  JOIN accounts_account account ON account.id = key.account_id
  JOIN accounts_tier tier ON tier.id = account.tier_id
 WHERE key.digest = ANY(%s::bytea[]) AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
"""

_NAMING = "SELECT name, display, created_at, expires_at FROM apikeys_apikey WHERE id = %s"

_DISABLED = """
SELECT key.id FROM apikeys_apikey key JOIN accounts_account account ON account.id = key.account_id
 WHERE key.id = ANY(%s) AND least(key.revoked_at, key.disabled_at, account.disabled_at) <= now()
"""

# Locked in the order of ids, so that two processes cannot wait for each other.
_NOTE_USES = """
UPDATE apikeys_apikey key SET last_used_at = used.at
  FROM (SELECT key.id, now() - make_interval(secs => age) AS at
          FROM unnest(%s::bigint[], %s::float8[]) AS used(id, age) JOIN apikeys_apikey key ON key.id = used.id
         ORDER BY key.id FOR NO KEY UPDATE OF key) used
 WHERE key.id = used.id AND (key.last_used_at IS NULL OR key.last_used_at < used.at)
"""
