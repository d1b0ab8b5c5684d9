from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from functools import partial

import pytest
from psycopg import AsyncConnection

from accounts.models import Account, Tier
from apikeys import keys, secret
from apikeys.keys import KeyFacts
from apikeys.models import ApiKey
from tests import factories
from tests.billing import stage

SECOND = timedelta(seconds=1)


def find(plaintext: str) -> KeyFacts | None:
    """As the gateway does, on a connection of its own."""

    async def connected() -> KeyFacts | None:
        async with await AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
            return await keys.find(database, secret.digest(plaintext))

    return asyncio.run(connected())


@pytest.mark.usefixtures("committed")
class TestFind:
    @pytest.fixture
    def key(self, now: datetime) -> tuple[ApiKey, str]:
        return keys.create(account=factories.account(), name="mine", now=now)

    def test_a_key_is_found_with_the_limits_of_its_accounts_tier(self, key: tuple[ApiKey, str]) -> None:
        made, plaintext = key
        assert find(plaintext) == KeyFacts(made.pk, made.account_id, False, False, 60, 100_000, 5)
        Account.objects.filter(pk=made.account_id).update(tier=Tier.objects.get(name="Enterprise"))
        assert find(plaintext) == KeyFacts(made.pk, made.account_id, False, False, 6_000, 20_000_000, 500)

    def test_an_unknown_key_is_not_found(self) -> None:
        assert find(secret.generate()) is None

    def test_of_two_keys_that_differ_in_one_character_each_is_found_as_itself(self) -> None:
        twins = [("tk-" + "x" * 31 + last) for last in "ab"]
        secrets = [twin + secret._checksum(twin[3:]) for twin in twins]
        made = [
            ApiKey.objects.create(account=factories.account(), name="twin", digest=secret.digest(one))
            for one in secrets
        ]
        found = [find(one) for one in secrets]
        assert [facts and facts.key_id for facts in found] == [key.pk for key in made]
        ApiKey.objects.filter(pk__in=[key.pk for key in made]).delete()

    def test_a_revoked_key_is_not_found_and_stays_revoked_since_the_first_time(
        self, key: tuple[ApiKey, str], now: datetime
    ) -> None:
        made, plaintext = key
        keys.revoke(key=made, now=now)
        keys.revoke(key=made, now=now + SECOND)
        assert made.revoked_at == now
        assert find(plaintext) is None

    @pytest.mark.parametrize(("expires", "found"), [(-SECOND, False), (60 * SECOND, True)])
    def test_a_key_is_found_until_it_expires(
        self, key: tuple[ApiKey, str], now: datetime, expires: timedelta, found: bool
    ) -> None:
        made, plaintext = key
        ApiKey.objects.filter(pk=made.pk).update(expires_at=now + expires)
        assert (find(plaintext) is not None) == found

    @pytest.mark.parametrize(("disabled", "is_disabled"), [(-SECOND, True), (60 * SECOND, False)])
    def test_a_disabled_key_or_account_is_found_and_says_so(
        self, key: tuple[ApiKey, str], now: datetime, disabled: timedelta, is_disabled: bool
    ) -> None:
        made, plaintext = key
        ApiKey.objects.filter(pk=made.pk).update(disabled_at=now + disabled)
        facts = find(plaintext)
        assert facts
        assert (facts.key_disabled, facts.account_disabled) == (is_disabled, False)
        Account.objects.filter(pk=made.account_id).update(disabled_at=now + disabled)
        facts = find(plaintext)
        assert facts
        assert (facts.key_disabled, facts.account_disabled) == (is_disabled, is_disabled)

    def test_the_limit_of_keys_holds_when_eight_are_made_at_the_same_time(
        self, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        monkeypatch.setattr(keys, "KEYS_PER_ACCOUNT", 4)
        account = factories.account()  # It has one.

        done = stage.at_the_same_time(*[partial(keys.create, account=account, name="key", now=now)] * 8)

        assert sum(isinstance(result, tuple) for result in done) == 3
        assert sum(isinstance(result, keys.TooManyKeys) for result in done) == 5
        assert account.api_keys.count() == 4


class TestCreate:
    @pytest.fixture
    def account(self, db: None) -> Account:
        return factories.account()

    def test_a_key_keeps_only_the_digest_of_its_secret(self, account: Account, now: datetime) -> None:
        made, plaintext = keys.create(account=account, name="  mine ", now=now)
        made.refresh_from_db()
        assert secret.well_formed(plaintext)
        assert (made.name, bytes(made.digest), made.display) == (
            "mine", secret.digest(plaintext), secret.display(plaintext),
        )  # fmt: skip

    @pytest.mark.parametrize("name", ["", "  ", "x" * 101])
    def test_a_key_needs_a_name_of_1_to_100_characters(self, account: Account, now: datetime, name: str) -> None:
        with pytest.raises(keys.InvalidName):
            keys.create(account=account, name=name, now=now)
        keys.create(account=account, name="x" * 100, now=now)

    def test_revoked_disabled_and_expired_keys_do_not_count(
        self, account: Account, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keys, "KEYS_PER_ACCOUNT", 1)
        for ended in ("revoked_at", "disabled_at", "expires_at"):
            with pytest.raises(keys.TooManyKeys):
                keys.create(account=account, name="one more", now=now)
            account.api_keys.update(**{ended: now})
            keys.create(account=account, name="one more", now=now)

    def test_keys_of_another_account_are_not_ours(self, account: Account, now: datetime) -> None:
        stranger = factories.account()
        assert set(ApiKey.objects.of_account(account)) & set(ApiKey.objects.of_account(stranger)) == set()
        assert ApiKey.objects.of_account(account).usable(now).count() == 1
