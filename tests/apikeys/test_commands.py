from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from apikeys import keys, secret
from apikeys.models import ApiKey
from tests import people

pytestmark = pytest.mark.django_db


def issue_key(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("issue_key", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_key_alone_goes_to_the_output() -> None:
    account, email = people.customer("alice")

    out, err = issue_key("--account", email, "--name", "laptop")

    plaintext = out.removesuffix("\n")
    assert secret.well_formed(plaintext)
    key = ApiKey.objects.get(digest=secret.digest(plaintext))
    assert (key.account, key.name) == (account, "laptop")
    assert "not shown again" in err
    assert plaintext not in err


def test_the_owner_is_found_whatever_the_case() -> None:
    account, email = people.customer("alice")

    issue_key("--account", email.upper(), "--name", "laptop")

    assert account.api_keys.count() == 1


def test_an_unknown_account_is_refused() -> None:
    with pytest.raises(CommandError, match=r"No account is owned by nobody@example\.test"):
        issue_key("--account", "nobody@example.test", "--name", "laptop")


@pytest.mark.parametrize("name", ["", "   ", "x" * 101])
def test_a_name_that_cannot_be_used_is_refused(name: str) -> None:
    _, email = people.customer("alice")

    with pytest.raises(CommandError, match="1 to 100 characters"):
        issue_key("--account", email, "--name", name)


def test_more_keys_than_an_account_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "KEYS_PER_ACCOUNT", 1)
    _, email = people.customer("alice")
    issue_key("--account", email, "--name", "first")

    with pytest.raises(CommandError, match="Revoke one first"):
        issue_key("--account", email, "--name", "second")


@pytest.mark.parametrize("missing", [["--name", "laptop"], ["--account", "alice@example.test"]])
def test_account_and_name_are_needed(missing: list[str]) -> None:
    with pytest.raises(CommandError, match="required"):
        issue_key(*missing)


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("issue_key", "--help")

    assert ended.value.code == 0
    assert "--account EMAIL" in capsys.readouterr().out
