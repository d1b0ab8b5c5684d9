from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError
from psycopg import AsyncConnection

from accounts import audit
from accounts.models import Account, AuditEvent, Tier
from apikeys import keys, secret
from apikeys.keys import KeyFacts
from apikeys.models import ApiKey, State
from tests import factories
from tests.billing import stage

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def find(plaintext: str) -> KeyFacts | None:
    """As the gateway does, on a connection of its own."""

    async def connected() -> KeyFacts | None:
        async with await AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
            digest = secret.digest(plaintext)
            return (await keys.find(database, [digest])).get(digest)

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

    def test_a_key_is_found_with_limits_of_its_own_beside_those_of_its_account(self, key: tuple[ApiKey, str]) -> None:
        made, plaintext = key
        keys.set_limits(key=made, requests_per_minute=6, tokens_per_minute=None, concurrent_requests=1)
        assert find(plaintext) == KeyFacts(made.pk, made.account_id, False, False, 60, 100_000, 5, 6, None, 1)

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

    def test_a_form_makes_one_key_when_it_is_sent_eight_times_at_the_same_time(self, now: datetime) -> None:
        account = factories.account()
        form = uuid4()

        done = stage.at_the_same_time(
            *[partial(keys.create, account=account, name="key", now=now, creation_id=form)] * 8
        )

        (made,) = [result[0] for result in done if isinstance(result, tuple)]
        assert {result.key for result in done if isinstance(result, keys.AlreadyCreated)} == {made}
        assert account.api_keys.filter(name="key").count() == 1

    def test_a_key_is_rotated_once_when_that_is_asked_eight_times_at_the_same_time(self, now: datetime) -> None:
        key, _ = keys.create(account=factories.account(), name="key", now=now)

        done = stage.at_the_same_time(*[partial(keys.rotate, key=key, overlap=HOUR, now=now)] * 8)

        assert sum(isinstance(result, tuple) for result in done) == 1
        assert sum(isinstance(result, keys.NotUsable) for result in done) == 7

    def test_a_rotated_key_is_found_until_the_overlap_ends_and_its_successor_from_now_on(self, now: datetime) -> None:
        old, first = keys.create(account=factories.account(), name="key", now=now)
        new, second = keys.rotate(key=old, overlap=HOUR, now=now)
        _, third = keys.rotate(key=new, overlap=timedelta(0), now=now - SECOND)

        assert [find(plaintext) is not None for plaintext in (first, second, third)] == [True, False, True]

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

    def test_a_name_is_kept_as_a_browser_shows_it(self, account: Account, now: datetime) -> None:
        assert keys.create(account=account, name=" my\n old   laptop", now=now)[0].name == "my old laptop"

    def test_a_lifetime_counts_from_now(self, account: Account, now: datetime) -> None:
        key, _ = keys.create(account=account, name="mine", now=now, lifetime=timedelta(days=30))
        assert key.expires_at == now + timedelta(days=30)

    def test_the_form_of_another_account_is_another_form(self, account: Account, now: datetime) -> None:
        form = uuid4()
        for of in (account, factories.account()):
            keys.create(account=of, name="mine", now=now, creation_id=form)
        with pytest.raises(keys.AlreadyCreated, match="'mine' exists already"):
            keys.create(account=account, name="other", now=now, creation_id=form)


class TestChange:
    @pytest.fixture
    def key(self, db: None, now: datetime) -> ApiKey:
        return keys.create(account=factories.account(), name="mine", now=now)[0]

    def test_a_key_is_renamed(self, key: ApiKey) -> None:
        keys.rename(key=key, name=" yours ")
        key.refresh_from_db()
        assert key.name == "yours"

    def test_what_was_written_meanwhile_stays(self, key: ApiKey, now: datetime) -> None:
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=now, last_used_at=now)
        keys.rename(key=key, name="yours")
        keys.set_expiry(key=key, expires_at=now + HOUR)
        key.refresh_from_db()
        assert (key.revoked_at, key.last_used_at, key.expires_at) == (now, now, now + HOUR)

    @pytest.mark.parametrize("name", ["", " ", "x" * 101])
    def test_a_bad_name_changes_nothing(self, key: ApiKey, name: str) -> None:
        with pytest.raises(keys.InvalidName):
            keys.rename(key=key, name=name)
        assert ApiKey.objects.get(pk=key.pk).name == "mine"

    def test_a_revoked_key_is_neither_disabled_nor_enabled(self, key: ApiKey, now: datetime) -> None:
        keys.revoke(key=key, now=now)
        chosen = ApiKey.objects.filter(pk=key.pk)
        assert keys.disable(chosen=chosen, now=now) == []
        chosen.update(disabled_at=now)
        assert keys.enable(chosen=chosen) == []

    def test_what_changed_nothing_is_not_recorded(self, key: ApiKey, now: datetime) -> None:
        chosen = ApiKey.objects.filter(pk=key.pk)
        for _ in range(2):
            keys.rename(key=key, name="yours")
            keys.disable(chosen=chosen, now=now)
        for _ in range(2):
            keys.enable(chosen=chosen)
        for _ in range(2):
            keys.revoke(key=key, now=now)
        assert done_to(key) == ["key.created", "key.renamed", "key.disabled", "key.enabled", "key.revoked"]

    def test_the_record_says_who_did_it_and_never_the_secret(self, now: datetime, db: None) -> None:
        account, alice = factories.account(), factories.user()
        key, first = keys.create(account=account, name="mine", now=now, by=alice)
        keys.rename(key=key, name="yours", by=alice)
        _, second = keys.rotate(key=key, overlap=HOUR, now=now, by=alice)
        keys.revoke(key=key, now=now, by=alice)

        events = list(AuditEvent.objects.filter(account=account))

        assert [event.actor for event in events] == [alice] * 4
        told = repr([(event.object, event.details) for event in events])
        assert f"yours ({key.display})" in told
        assert first not in told
        assert second not in told


class TestSetLimits:
    @pytest.fixture
    def key(self, db: None, now: datetime) -> ApiKey:
        return keys.create(account=factories.account(), name="mine", now=now)[0]

    def test_limits_are_set_and_taken_away_and_each_change_is_recorded(self, key: ApiKey) -> None:
        alice = factories.user()
        for _ in range(2):  # The second time changes nothing.
            keys.set_limits(key=key, requests_per_minute=6, tokens_per_minute=5_000, concurrent_requests=None, by=alice)
        key.refresh_from_db()
        assert (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests) == (6, 5_000, None)
        keys.set_limits(key=key, requests_per_minute=None, tokens_per_minute=None, concurrent_requests=None, by=alice)
        key.refresh_from_db()
        assert (key.requests_per_minute, key.tokens_per_minute, key.concurrent_requests) == (None, None, None)

        second, first = audit.events(account=key.account, group="key", person=alice.pk)
        told = f"changed the limits of the key {key} from"
        assert audit.sentence(first) == f"{told} the account's to 6 requests/minute, 5,000 tokens/minute"
        assert audit.sentence(second) == f"{told} 6 requests/minute, 5,000 tokens/minute to the account's"

    @pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "concurrent_requests"])
    @pytest.mark.parametrize("bad", [0, -1, 2**31])
    def test_a_limit_is_a_positive_number_that_the_database_can_hold(self, key: ApiKey, limit: str, bad: int) -> None:
        own: dict[str, Any] = {"requests_per_minute": 1, "tokens_per_minute": 1, "concurrent_requests": 1}
        with pytest.raises(keys.InvalidLimit):
            keys.set_limits(key=key, **own | {limit: bad})
        with pytest.raises(DatabaseError):
            ApiKey.objects.filter(pk=key.pk).update(**{limit: bad})

    def test_the_new_key_of_a_rotation_has_the_limits_of_the_old_one(self, key: ApiKey, now: datetime) -> None:
        keys.set_limits(key=key, requests_per_minute=6, tokens_per_minute=5_000, concurrent_requests=2)
        new, _ = keys.rotate(key=key, overlap=HOUR, now=now)
        new.refresh_from_db()
        assert (new.requests_per_minute, new.tokens_per_minute, new.concurrent_requests) == (6, 5_000, 2)


class TestRotate:
    @pytest.fixture
    def account(self, db: None) -> Account:
        return factories.account()

    def test_the_new_key_has_the_name_and_knows_the_old_one(self, account: Account, now: datetime) -> None:
        alice = factories.user()
        old, first = keys.create(account=account, name="mine", now=now)
        new, second = keys.rotate(key=old, overlap=HOUR, now=now, by=alice)
        old.refresh_from_db()
        assert (new.name, new.account, new.created_by, new.expires_at) == ("mine", account, alice, None)
        assert (new.replaces, old.successor, old.expires_at) == (old, new, now + HOUR)
        assert first != second

    def test_a_lifetime_begins_anew(self, account: Account, now: datetime) -> None:
        old, _ = keys.create(account=account, name="mine", now=now, lifetime=30 * HOUR)
        new, _ = keys.rotate(key=old, overlap=HOUR, now=now + 20 * HOUR)
        assert new.expires_at
        assert abs(new.expires_at - (now + 50 * HOUR)) < timedelta(minutes=1)

    def test_an_overlap_never_prolongs_the_old_key(self, account: Account, now: datetime) -> None:
        old, _ = keys.create(account=account, name="mine", now=now, lifetime=HOUR)
        keys.rotate(key=old, overlap=24 * HOUR, now=now)
        old.refresh_from_db()
        assert old.expires_at == now + HOUR

    @pytest.mark.parametrize("ended", ["revoked_at", "disabled_at", "expires_at"])
    def test_a_key_that_does_not_work_cannot_be_rotated(self, account: Account, now: datetime, ended: str) -> None:
        account.api_keys.update(**{ended: now})
        with pytest.raises(keys.NotUsable):
            keys.rotate(key=account.api_keys.get(), overlap=HOUR, now=now)
        assert account.api_keys.count() == 1

    def test_an_account_with_all_its_keys_can_rotate_each_of_them_once(
        self, account: Account, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keys, "KEYS_PER_ACCOUNT", 1)
        new, _ = keys.rotate(key=account.api_keys.get(), overlap=HOUR, now=now)
        with pytest.raises(keys.TooManyKeys):
            keys.create(account=account, name="one more", now=now)
        with pytest.raises(keys.TooManyKeys):
            keys.rotate(key=new, overlap=HOUR, now=now)
        keys.rotate(key=new, overlap=HOUR, now=now + 2 * HOUR)

    def test_a_form_rotates_once(self, account: Account, now: datetime) -> None:
        form = uuid4()
        key = account.api_keys.get()
        new, _ = keys.rotate(key=key, overlap=HOUR, now=now, creation_id=form)
        with pytest.raises(keys.AlreadyCreated) as repeat:
            keys.rotate(key=key, overlap=HOUR, now=now, creation_id=form)
        assert repeat.value.key == new


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, State.ACTIVE),
        ({"expires_at": HOUR}, State.EXPIRING),
        ({"expires_at": HOUR, "disabled_at": -HOUR}, State.DISABLED),
        ({"expires_at": -HOUR, "disabled_at": -HOUR}, State.EXPIRED),
        ({"expires_at": -HOUR, "disabled_at": -HOUR, "revoked_at": -HOUR}, State.REVOKED),
    ],
)
def test_the_state_of_a_key_is_what_the_gateway_would_say(
    db: None, now: datetime, fields: dict[str, timedelta], state: State
) -> None:
    account = factories.account()
    account.api_keys.update(**{name: now + away for name, away in fields.items()})

    assert account.api_keys.with_state(now).get().state == state
    assert account.api_keys.usable(now).exists() == (state in (State.ACTIVE, State.EXPIRING))
    assert account.api_keys.ended(now).exists() == (state in (State.EXPIRED, State.REVOKED))
    assert account.api_keys.standing(now).exists() != account.api_keys.ended(now).exists()


@pytest.mark.usefixtures("committed")
class TestNoteUses:
    @staticmethod
    def note(key: ApiKey, age: float) -> None:
        stage.as_gateway(lambda database: keys.note_uses(database, {key.pk: age}))
        key.refresh_from_db()

    def test_the_last_use_is_as_long_ago_by_the_databases_clock(self) -> None:
        key = factories.account().api_keys.get()
        self.note(key, 90.0)
        assert key.last_used_at
        assert 89 < (datetime.now(UTC) - key.last_used_at).total_seconds() < 120

    def test_a_later_use_stays(self) -> None:
        key = factories.account().api_keys.get()
        self.note(key, 5.0)
        noted = key.last_used_at
        self.note(key, 500.0)
        assert key.last_used_at == noted
        self.note(key, 0.0)
        assert key.last_used_at
        assert noted
        assert key.last_used_at > noted

    def test_two_processes_never_wait_for_each_other(self) -> None:
        one, two = (factories.account().api_keys.get().pk for _ in range(2))
        there, back = {one: 1.0, two: 1.0}, {two: 1.0, one: 1.0}

        def noting(ages: dict[int, float]) -> Callable[[], None]:
            def work() -> None:
                for _ in range(40):
                    stage.as_gateway(lambda database: keys.note_uses(database, ages))

            return work

        done = stage.at_the_same_time(noting(there), noting(back))

        assert done == [None, None]


def done_to(key: ApiKey) -> list[str]:
    return list(AuditEvent.objects.filter(account=key.account).order_by("id").values_list("action", flat=True))
