from __future__ import annotations

from functools import partial

import pytest

from accounts import registration
from accounts.models import Account, Membership, User
from apikeys.models import ApiKey
from tests import factories
from tests.billing import stage


@pytest.mark.django_db
class TestCreateAccount:
    def test_it_makes_the_user_the_account_and_the_owner(self) -> None:
        account = registration.create_account(email="Alice@Example.TEST", password="a long password", name="Alice Ltd")
        membership = Membership.objects.get(account=account)
        assert (account.name, account.tier.name, membership.role) == ("Alice Ltd", "Standard", "owner")
        assert membership.user.check_password("a long password")
        assert membership.user.email == "Alice@example.test"
        assert (membership.user.is_staff, membership.user.is_superuser) == (False, False)
        assert not ApiKey.objects.filter(account=account).exists()

    def test_without_a_password_nobody_can_sign_in(self) -> None:
        account = registration.create_account(email="alice@example.test")
        assert not account.users.get().has_usable_password()

    def test_a_tier_is_found_in_any_case(self) -> None:
        assert registration.create_account(email="alice@example.test", tier="enterprise").tier.name == "Enterprise"

    def test_an_unknown_tier_names_the_known_ones(self) -> None:
        with pytest.raises(registration.UnknownTier, match=r"Known tiers: Enterprise, Standard"):
            registration.create_account(email="alice@example.test", tier="Gold")
        assert not User.objects.filter(email="alice@example.test").exists()

    @pytest.mark.parametrize("email", ["ALICE@example.test", "alice@EXAMPLE.test", "alice@example.test"])
    def test_a_taken_address_is_refused_in_any_case_and_leaves_nothing_behind(self, email: str) -> None:
        registration.create_account(email="alice@example.test")
        with pytest.raises(registration.EmailTaken):
            registration.create_account(email=email, name="the second")
        assert not Account.objects.filter(name="the second").exists()
        assert User.objects.filter(email__iexact="alice@example.test").count() == 1

    @pytest.mark.parametrize(
        "email", ["", "alice", "alice@", "@example.test", "a b@example.test", "alice@example.test\n"]
    )
    def test_what_is_no_address_is_refused(self, email: str) -> None:
        with pytest.raises(registration.InvalidEmail):
            registration.create_account(email=email)

    def test_the_longest_address_is_taken_and_a_longer_one_refused(self) -> None:
        domain = ".".join(["d" * 60] * 3)
        longest = f"{'a' * 60}@{domain}.{'e' * 6}.test"
        longest = longest.replace("e.test", "e" * (254 - len(longest) + 1) + ".test")
        assert len(longest) == 254
        account = registration.create_account(email=longest)
        assert (account.name, account.users.get().email) == (longest[:100], longest)
        with pytest.raises(registration.InvalidEmail):
            registration.create_account(email=f"b{longest}")

    def test_the_name_of_an_account_has_at_most_100_characters(self) -> None:
        with pytest.raises(registration.InvalidName):
            registration.create_account(email="alice@example.test", name="x" * 101)
        registration.create_account(email="alice@example.test", name="x" * 100)


@pytest.mark.usefixtures("committed")
def test_of_eight_people_with_one_address_at_the_same_time_one_gets_it() -> None:
    name = factories.unique("alice")
    emails = [f"{name}@example.test", f"{name.upper()}@example.test"] * 4

    done = stage.at_the_same_time(*[partial(registration.create_account, email=email, name=name) for email in emails])

    assert sum(isinstance(result, Account) for result in done) == 1
    assert sum(isinstance(result, registration.EmailTaken) for result in done) == 7
    assert Account.objects.filter(name=name).count() == 1


@pytest.mark.django_db
class TestAccountOf:
    def test_it_finds_the_account_that_the_user_owns(self) -> None:
        account = registration.create_account(email="alice@example.test")
        assert registration.account_of(email="ALICE@example.test") == account

    def test_nobody_and_members_own_nothing(self) -> None:
        member = factories.user()
        Membership.objects.create(account=factories.account(), user=member, role="admin")
        for email in ("nobody@example.test", member.email):
            with pytest.raises(registration.AccountNotFound, match="No account is owned"):
                registration.account_of(email=email)

    def test_two_accounts_are_not_one(self) -> None:
        account = registration.create_account(email="alice@example.test")
        Membership.objects.create(account=factories.account(), user=account.users.get(), role="owner")
        with pytest.raises(registration.AccountNotFound, match="more than one"):
            registration.account_of(email="alice@example.test")
