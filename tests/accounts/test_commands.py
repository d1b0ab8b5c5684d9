from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Account, User
from tests import factories, people

pytestmark = pytest.mark.django_db


def create_account(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("create_account", *arguments, stdout=out, **options)
    return out.getvalue()


def address() -> str:
    return f"{factories.unique('alice')}@example.test"


def test_it_makes_a_user_who_owns_an_account() -> None:
    email = address()

    out = create_account(email)

    account = Account.objects.get(memberships__user__email=email, memberships__role="owner")
    assert account.tier.name == "Standard"
    assert account.name == email
    assert out == f"Created account {account.pk} of {email}, tier Standard.\n"


def test_the_tier_and_the_name_can_be_chosen() -> None:
    email = address()

    create_account(email, "--tier", "enterprise", "--name", "Acme")

    account = Account.objects.get(memberships__user__email=email)
    assert (account.tier.name, account.name) == ("Enterprise", "Acme")


def test_without_a_password_nobody_can_sign_in() -> None:
    email = address()

    create_account(email)

    assert not User.objects.get(email=email).has_usable_password()


def test_the_password_is_read_from_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    email = address()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{people.PASSWORD}\nnot this\n"))

    create_account(email, "--password-stdin")

    assert User.objects.get(email=email).check_password(people.PASSWORD)


def test_a_weak_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))

    with pytest.raises(CommandError, match="at least 12 characters"):
        create_account(address(), "--password-stdin")


@pytest.mark.parametrize(
    "email", ["", "alice", "alice@", f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.test"]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(CommandError, match="is not an e-mail address that can be used"):
        create_account(email)


def test_a_long_address_still_names_its_account() -> None:
    email = f"{'a' * 60}@{'b' * 60}.{factories.unique('long')}.test"

    create_account(email)

    assert Account.objects.get(memberships__user__email=email).name == email[:100]


def test_an_address_is_taken_whatever_its_case() -> None:
    email = address()
    create_account(email)

    with pytest.raises(CommandError, match="There is already a user ALICE"):
        create_account(email.upper())


def test_an_unknown_tier_names_the_known_ones() -> None:
    with pytest.raises(CommandError, match=r"There is no tier 'Gold'\. Known tiers: Enterprise, Standard"):
        create_account(address(), "--tier", "Gold")


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(CommandError, match="at most 100 characters"):
        create_account(address(), "--name", "x" * 101)


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("create_account", "--help")

    assert ended.value.code == 0
    assert "--password-stdin" in capsys.readouterr().out


def test_an_address_is_needed() -> None:
    with pytest.raises(CommandError, match="required: email"):
        create_account()
