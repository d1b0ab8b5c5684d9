from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Account, Membership
from apikeys import keys, secret
from apikeys.models import ApiKey
from tests import factories, people
from tests.accounts import browsing

pytestmark = pytest.mark.django_db

SECRET = re.compile(r"tk-[0-9A-Za-z]{38}")
EVIL = """'"><img src=x onerror=alert(1)>{{7*7}}"""
ROLES = ("owner", "admin", "member", "billing")


@pytest.fixture
def account() -> Account:
    return people.customer("alice")[0]


def made(account: Account, name: str = "laptop") -> ApiKey:
    """By its owner."""
    owner = account.users.get(memberships__role="owner")
    return keys.create(account=account, name=name, now=datetime.now(UTC), by=owner)[0]


def post(client: Client, view: str, *args: Any, **fields: Any) -> Any:
    return client.post(reverse(f"apikeys:{view}", args=args), fields)


def create(client: Client, **fields: Any) -> Any:
    return post(client, "create", **{"name": "laptop", "creation_id": uuid4(), **fields})


def page(client: Client, view: str = "keys", *args: Any, query: str = "") -> str:
    response = client.get(reverse(f"apikeys:{view}", args=args) + query)
    assert response.status_code == 200
    return str(response.content.decode())


def shown_in(response: Any) -> str:
    (found,) = set(SECRET.findall(response.content.decode()))
    assert secret.well_formed(found)
    return str(found)


class TestList:
    def test_shows_what_one_wants_to_know_of_a_key(self, account: Account) -> None:
        key = made(account)
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

        content = page(people.owner_of(account))

        owner = account.users.get().email
        assert [text in content for text in ("laptop", key.display, ">active<", owner, "2026-01-02 03:04:05")] == (
            [True] * 5
        )

    def test_is_empty_with_the_one_next_step(self, account: Account) -> None:
        content = page(people.owner_of(account))
        assert "Your keys will be listed here" in content
        assert "Create the first key" in content

    def test_says_each_state_in_a_word(self, account: Account) -> None:
        now = datetime.now(UTC)
        for name, fields in {
            "lamp": {"disabled_at": now},
            "desk": {"expires_at": now + timedelta(days=3, minutes=1)},
            "chair": {"revoked_at": now},
            "shelf": {"expires_at": now},
        }.items():
            ApiKey.objects.filter(pk=made(account, name).pk).update(**fields)
        alice = people.owner_of(account)

        in_use, ended = page(alice), page(alice, query="?show=ended")

        assert [word in in_use for word in (">disabled<", ">expires in 3\xa0days<", "chair", "shelf")] == (
            [True, True, False, False]
        )
        assert [word in ended for word in (">revoked<", ">expired<", "lamp", "desk")] == [True, True, False, False]

    def test_says_what_replaces_a_rotated_key(self, account: Account) -> None:
        new, _ = keys.rotate(key=made(account), overlap=timedelta(days=1), now=datetime.now(UTC))
        assert f"<code>{new.display}</code></a></small>" in page(people.owner_of(account))

    def test_turns_pages_without_counting(self, account: Account) -> None:
        ApiKey.objects.bulk_create(
            ApiKey(account=account, name=f"number {number:03}", digest=number.to_bytes(32), display="tk-...")
            for number in range(10**20, 10**20 + 120)
        )
        alice = people.owner_of(account)
        seen, query = [], ""
        for _ in range(3):
            content = page(alice, query=query)
            seen += re.findall(r"number \d+", content)
            found = re.search(r'href="(\?before=\d+)"', content)
            query = found[1] if found else ""

        assert query == ""
        assert len(seen) == len(set(seen)) == 120
        assert seen == sorted(seen, reverse=True)

    @pytest.mark.parametrize("before", ["x", "-1", "9" * 40, "\u00b2", "%00"])
    def test_takes_any_place_to_start(self, account: Account, before: str) -> None:
        made(account)
        page(people.owner_of(account), query=f"?before={before}")

    def test_needs_few_queries_whatever_there_is(self, account: Account) -> None:
        for number in range(30):
            keys.rotate(key=made(account, str(number)), overlap=timedelta(days=1), now=datetime.now(UTC))
        alice = people.owner_of(account)
        with CaptureQueriesContext(connection) as done:
            page(alice)
        assert len(done) <= 8


class TestCreate:
    def test_shows_the_secret_once_with_what_to_do_next(self, account: Account) -> None:
        alice = people.owner_of(account)

        response = create(alice, name="laptop", lifetime_days="30")

        found, content = shown_in(response), response.content.decode()
        key = account.api_keys.get()
        assert (bytes(key.digest), key.created_by) == (secret.digest(found), account.users.get())
        assert key.expires_at
        assert timedelta(days=29) < key.expires_at - datetime.now(UTC) <= timedelta(days=30)
        assert content.count(found) == 5  # The field, and four languages.
        assert [text in content for text in ("I have stored it", "http://127.0.0.1:8000/v1", 'data-copy="secret"')] == (
            [True] * 3
        )
        assert "no-store" in response["Cache-Control"]

    def test_keeps_the_secret_nowhere_else(self, account: Account, caplog: pytest.LogCaptureFixture) -> None:
        alice = people.owner_of(account)
        found = shown_in(create(alice))

        for view in ("keys", "create"):
            assert found not in page(alice, view)
        assert found not in page(alice, "key", account.api_keys.get().pk)
        assert found not in repr([session.get_decoded() for session in Session.objects.all()])
        assert found not in repr(mail.outbox) + caplog.text + repr(alice.cookies)

    def test_a_second_sending_of_the_form_makes_no_second_key(self, account: Account) -> None:
        alice, form = people.owner_of(account), uuid4()
        found = shown_in(create(alice, creation_id=form))

        again = create(alice, creation_id=form)

        assert again.status_code == 409
        assert "This key exists already" in again.content.decode()
        assert reverse("apikeys:rotate", args=[account.api_keys.get().pk]) in again.content.decode()
        assert found not in again.content.decode()

    def test_every_form_has_an_id_of_its_own(self, account: Account) -> None:
        alice = people.owner_of(account)
        ids = {re.search(r'name="creation_id" value="([^"]+)"', page(alice, "create"))[1] for _ in range(2)}  # type: ignore[index]
        assert len(ids) == 2

    @pytest.mark.parametrize(
        "fields",
        [{"name": " "}, {"name": "x" * 101}, {"name": "a\0b"}, {"lifetime_days": "31"}, {"creation_id": "1"}],
        ids=repr,
    )
    def test_a_bad_form_makes_nothing_and_says_why(self, account: Account, fields: dict[str, str]) -> None:
        response = create(people.owner_of(account), **fields)
        assert response.status_code == 200
        assert "errorlist" in response.content.decode()
        assert not account.api_keys.exists()

    def test_too_many_keys_are_told(self, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keys, "KEYS_PER_ACCOUNT", 0)
        assert "Revoke one first" in create(people.owner_of(account)).content.decode()

    def test_asks_nobody_again_who_has_just_signed_in(self) -> None:
        _, email = people.customer("alice", password=people.PASSWORD)
        alice = Client()
        alice.post("/accounts/login/", {"login": email, "password": people.PASSWORD})

        shown_in(create(alice, name="mine"))

    def test_asks_who_it_is_again_before_and_goes_on_after(self) -> None:
        account, email = people.customer("alice", password=people.PASSWORD)
        alice = Client()
        alice.post("/accounts/login/", {"login": email, "password": people.PASSWORD})
        ten_minutes_ago = datetime.now(UTC) - timedelta(minutes=10)
        UserSession.objects.filter(user=account.users.get()).update(created_at=ten_minutes_ago)

        asked = create(alice, name="mine")

        assert (asked.status_code, asked["Location"].partition("?")[0]) == (302, "/accounts/reauthenticate/")
        assert not account.api_keys.exists()
        answer = alice.post(asked["Location"], {"password": people.PASSWORD})
        shown_in(answer)
        assert account.api_keys.get().name == "mine"
        assert "no-store" in answer["Cache-Control"]
        # From now on it is known for a while.
        assert create(alice, name="another").status_code == 200

    def test_a_key_that_was_given_up_at_the_proof_is_not_made_by_opening_the_page_again(self, account: Account) -> None:
        alice = browsing.with_password(account.users.get())
        create(alice, name="given up")
        answer = browsing.go_on(alice, alice.get(reverse("apikeys:create")))
        assert "Create a key" in answer.content.decode()
        assert not account.api_keys.exists()

    def test_a_form_with_a_fault_that_is_shown_after_the_proof_is_sent_to_its_own_page(self, account: Account) -> None:
        alice = browsing.with_password(account.users.get())
        answer = browsing.go_on(alice, create(alice, name=""))
        assert answer.status_code == 200
        assert f'<form method="post" action="{reverse("apikeys:create")}">' in answer.content.decode()

    def test_only_name_and_lifetime_are_taken_from_the_form(self, account: Account) -> None:
        other = factories.account()

        response = create(
            people.owner_of(account),
            account=other.pk, account_id=other.pk, created_by=factories.user().pk, display="tk-", digest="x" * 32,
            id=1, expires_at="2030-01-01", disabled_at="2030-01-01", last_used_at="2030-01-01",
        )  # fmt: skip

        key = account.api_keys.get()
        assert bytes(key.digest) == secret.digest(shown_in(response))
        assert (key.created_by, key.expires_at, key.disabled_at, key.last_used_at) == (
            account.users.get(), None, None, None,
        )  # fmt: skip
        assert other.api_keys.count() == 1


class TestChange:
    def test_rename(self, account: Account) -> None:
        key, alice = made(account), people.owner_of(account)

        response = alice.post(
            reverse("apikeys:rename", args=[key.pk]),
            {"name": "desk", "account": factories.account().pk, "display": "x", "disabled_at": "2030-01-01"},
            follow=True,
        )

        assert "The key is now called desk." in response.content.decode()
        after = ApiKey.objects.get(pk=key.pk)
        assert (after.name, after.account, after.display, after.disabled_at) == ("desk", account, key.display, None)

    def test_a_bad_name_is_told(self, account: Account) -> None:
        response = post(people.owner_of(account), "rename", made(account).pk, name="")
        assert "This field is required" in response.content.decode()

    def test_disable_and_enable(self, account: Account) -> None:
        key, alice = made(account), people.owner_of(account)

        post(alice, "disable", key.pk)
        assert ">disabled<" in page(alice, "key", key.pk)

        post(alice, "enable", key.pk)
        assert ">active<" in page(alice, "key", key.pk)

    @pytest.mark.parametrize("typed", ["", "Laptop", "laptop2", "lap top", "{{ key.name }}"])
    def test_without_its_name_a_key_is_not_revoked(self, account: Account, typed: str) -> None:
        key = made(account)
        post(people.owner_of(account), "revoke", key.pk, name=typed)
        assert not ApiKey.objects.ended(datetime.now(UTC)).filter(pk=key.pk).exists()

    def test_with_its_name_it_is(self, account: Account) -> None:
        key, alice = made(account), people.owner_of(account)
        assert post(alice, "revoke", key.pk, name="laptop").status_code == 302
        assert ApiKey.objects.ended(datetime.now(UTC)).filter(pk=key.pk).exists()
        assert "Disable" not in page(alice, "key", key.pk)

    def test_rotate_shows_the_new_secret_once_and_when_the_old_one_ends(self, account: Account) -> None:
        key, alice, form = made(account), people.owner_of(account), uuid4()

        response = post(alice, "rotate", key.pk, overlap_seconds=3600, creation_id=form)

        new = account.api_keys.get(replaces=key)
        assert bytes(new.digest) == secret.digest(shown_in(response))
        assert f"<code>{key.display}</code>, works until" in response.content.decode()
        assert "no-store" in response["Cache-Control"]
        assert post(alice, "rotate", key.pk, overlap_seconds=3600, creation_id=form).status_code == 409
        assert "was not rotated before" in (
            post(alice, "rotate", key.pk, overlap_seconds=3600, creation_id=uuid4()).content.decode()
        )

    @pytest.mark.parametrize("overlap", ["", "-1", "1", "86401", "x"])
    def test_other_overlaps_are_not_for_sale(self, account: Account, overlap: str) -> None:
        key = made(account)
        post(people.owner_of(account), "rotate", key.pk, overlap_seconds=overlap, creation_id=uuid4())
        assert account.api_keys.count() == 1

    def test_rotating_asks_who_it_is_again(self) -> None:
        account, _ = people.customer("alice", password=people.PASSWORD)
        key, alice = made(account), people.owner_of(account)
        response = post(alice, "rotate", key.pk, overlap_seconds=0, creation_id=uuid4())
        assert response["Location"].startswith("/accounts/reauthenticate/")
        assert account.api_keys.count() == 1


ONE = ["key", "rename", "disable", "enable", "rotate", "revoke"]
CHANGES = ONE[1:]
FORMS: dict[str, dict[str, Any]] = {
    "rename": {"name": "x"},
    "revoke": {"name": "laptop"},
    "rotate": {"overlap_seconds": 0},
}


def send(client: Client, view: str, key: ApiKey) -> Any:
    if view == "key":
        return client.get(reverse("apikeys:key", args=[key.pk]))
    return post(client, view, key.pk, creation_id=uuid4(), **FORMS.get(view, {}))


class TestRoles:
    @pytest.mark.parametrize(("view", "allowed"), [
        ("keys", {"owner", "admin", "member"}), ("create", {"owner", "admin", "member"}),
    ])  # fmt: skip
    @pytest.mark.parametrize("role", ROLES)
    def test_pages_of_the_account(self, account: Account, view: str, allowed: set[str], role: str) -> None:
        client = people.signed_in(people.member_of(account, role))
        assert client.get(reverse(f"apikeys:{view}")).status_code == (200 if role in allowed else 403)

    @pytest.mark.parametrize("role", ROLES)
    def test_a_key_is_made_by_all_but_billing(self, account: Account, role: str) -> None:
        create(people.signed_in(people.member_of(account, role)))
        assert account.api_keys.count() == (role != "billing")

    @pytest.mark.parametrize("view", CHANGES)
    @pytest.mark.parametrize("role", ROLES)
    def test_the_key_of_another_person_is_changed_by_owners_and_admins(
        self, account: Account, view: str, role: str
    ) -> None:
        key = made(account)
        before = ApiKey.objects.filter(account=account).values().get()

        response = send(people.signed_in(people.member_of(account, role)), view, key)

        if role in ("owner", "admin"):
            assert response.status_code in (200, 302)
        else:
            assert response.status_code == 403
            assert ApiKey.objects.filter(account=account).values().get() == before

    @pytest.mark.parametrize("view", CHANGES)
    def test_a_member_changes_the_keys_they_created(self, account: Account, view: str) -> None:
        bob = people.member_of(account, "member")
        key, _ = keys.create(account=account, name="laptop", now=datetime.now(UTC), by=bob)
        assert send(people.signed_in(bob), view, key).status_code in (200, 302)

    def test_a_member_sees_the_keys_of_others_without_what_changes_them(self, account: Account) -> None:
        bob = people.signed_in(people.member_of(account, "member"))
        content = page(bob, "key", made(account).pk)
        assert "Revoke" not in content
        assert "This one is changed by its creator" in content

    @pytest.mark.parametrize("view", ONE)
    def test_anothers_key_is_found_no_more_than_one_that_does_not_exist(self, account: Account, view: str) -> None:
        key, charlie = made(account), people.owner_of(people.customer("charlie")[0])
        unknown = ApiKey(pk=key.pk + 1_000_000)

        theirs, nobodys = send(charlie, view, key), send(charlie, view, unknown)

        assert (theirs.status_code, nobodys.status_code) == (404, 404)
        assert without_token(theirs) == without_token(nobodys)
        assert ApiKey.objects.get(pk=key.pk).name == "laptop"
        assert ApiKey.objects.usable(datetime.now(UTC)).filter(pk=key.pk).exists()

    @pytest.mark.parametrize("view", ONE)
    def test_strangers_sign_in_first(self, account: Account, view: str) -> None:
        key = made(account)
        assert send(Client(), view, key)["Location"].startswith("/accounts/login/?next=/keys/")
        assert ApiKey.objects.filter(account=account).count() == 1

    def test_a_removed_member_is_shut_out_at_once(self, account: Account) -> None:
        bob = people.member_of(account, "admin")
        client = people.signed_in(bob)
        page(client)
        Membership.objects.get(user=bob).delete()
        assert client.get(reverse("apikeys:keys")).status_code == 403


class TestForgery:
    @pytest.mark.parametrize("view", CHANGES)
    def test_a_form_from_elsewhere_is_refused(self, account: Account, view: str) -> None:
        key = made(account)
        client = people.signed_in(account.users.get(), enforce_csrf_checks=True)
        assert send(client, view, key).status_code == 403
        assert client.post(reverse("apikeys:create"), {"name": "x", "creation_id": uuid4()}).status_code == 403
        assert ApiKey.objects.usable(datetime.now(UTC)).filter(account=account, name="laptop").count() == 1

    @pytest.mark.parametrize("view", CHANGES)
    def test_looking_changes_nothing(self, account: Account, view: str) -> None:
        key = made(account)
        before = ApiKey.objects.filter(account=account).values().get()
        query: dict[str, Any] = {"name": "laptop", "overlap_seconds": 0, "creation_id": str(uuid4())}
        assert people.owner_of(account).get(reverse(f"apikeys:{view}", args=[key.pk]), query).status_code in (200, 405)
        assert ApiKey.objects.filter(account=account).values().get() == before

    def test_a_name_is_only_a_name(self, account: Account) -> None:
        alice = people.owner_of(account)
        contents = [create(alice, name=EVIL).content.decode()]
        key = account.api_keys.get()
        contents += [page(alice, view, key.pk) for view in ("key", "rotate", "revoke")] + [page(alice)]
        contents.append(alice.post(reverse("apikeys:disable", args=[key.pk]), follow=True).content.decode())
        for content in contents:
            assert "<img src=x" not in content
            assert "{{7*7}}" in content


def without_token(response: Any) -> str:
    return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", response.content.decode())
