"""From a stranger to a customer: sign-up, the code by mail, the account, the welcome credit."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.test import Client, override_settings

from accounts import registration
from accounts.models import Account, Membership, User
from billing import credits, money
from billing.models import CreditLot, Transfer
from tests.accounts import browsing
from tests.people import PASSWORD

pytestmark = pytest.mark.django_db
DOLLARS = 5 * money.PICO_PER_USD


class Away(BaseEmailBackend):
    """A mail server that does not answer."""

    def send_messages(self, messages: object) -> int:
        raise ConnectionRefusedError("nobody listens")


AWAY = override_settings(EMAIL_BACKEND=f"{__name__}.Away")


class TestSignUp:
    def test_it_makes_an_account_owned_by_the_user_who_has_to_confirm(self) -> None:
        client, email = Client(), browsing.address()

        response = browsing.sign_up(client, email)

        assert response["Location"] == "/accounts/confirm-email/"
        membership = Membership.objects.get(user__email=email)
        assert (membership.role, membership.account.name, membership.account.tier.name) == ("owner", email, "Standard")
        assert not browsing.is_signed_in(client)

    def test_the_code_signs_in_and_gives_the_welcome_credit(self) -> None:
        client, email = Client(), browsing.address()
        browsing.sign_up(client, email)

        response = browsing.confirm(client, browsing.code_in(mail.outbox[-1]))

        assert response["Location"] == "/"
        assert browsing.is_signed_in(client)
        assert EmailAddress.objects.get(email=email).verified
        account = Account.objects.get(memberships__user__email=email)
        transfer = Transfer.objects.get(wallet_id=account.pk)
        assert (transfer.amount, transfer.cause) == (DOLLARS, f"welcome:{account.pk}")
        assert CreditLot.objects.get(wallet_id=account.pk).kind == CreditLot.Kind.PROMOTIONAL

    def test_nothing_is_given_before_the_address_is_confirmed(self) -> None:
        email = browsing.address()
        browsing.sign_up(Client(), email)
        assert not Transfer.objects.filter(wallet_id=Account.objects.get(memberships__user__email=email).pk).exists()

    @override_settings(WELCOME_CREDIT=0)
    def test_nothing_is_given_where_nothing_is_promised(self) -> None:
        client = Client()
        user = browsing.confirmed(client, browsing.address())
        assert browsing.is_signed_in(client)
        assert not Transfer.objects.filter(wallet_id=user.accounts.get().pk).exists()
        assert "to spend" not in Client().get("/accounts/signup/").content.decode()

    def test_the_code_may_be_typed_in_small_letters_and_without_its_dash(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]).lower().replace("-", " "))
        assert browsing.is_signed_in(client)

    def test_a_weak_password_is_refused(self) -> None:
        email = browsing.address()
        for password in ("short", "password1234", email):
            content = browsing.sign_up(Client(), email, password).content.decode()
            assert "wrong" in content
        assert not User.objects.filter(email=email).exists()

    def test_the_mail_is_text_from_us_with_our_prefix(self) -> None:
        email = browsing.address()
        browsing.sign_up(Client(), email)
        message = mail.outbox[-1]
        assert message.subject == "[Flint] Your code to finish the sign-up"
        assert (message.to, message.from_email) == ([email], "Flint <flint@example.test>")
        assert not getattr(message, "alternatives", [])


class TestTheCode:
    def test_a_wrong_one_is_refused_and_the_right_one_still_works(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())

        response = browsing.confirm(client, "BBBB-BBBB")

        assert "Incorrect code" in response.content.decode()
        assert not browsing.is_signed_in(client)
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
        assert browsing.is_signed_in(client)

    def test_three_wrong_ones_use_it_up(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())
        for _ in range(3):
            browsing.confirm(client, "BBBB-BBBB")

        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))

        assert not browsing.is_signed_in(client)

    def test_it_expires_after_fifteen_minutes(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())
        with browsing.later(timedelta(minutes=15, seconds=1)):
            browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
            assert not browsing.is_signed_in(client)

    def test_a_new_one_replaces_it(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())
        with browsing.later(timedelta(seconds=11)):
            client.post("/accounts/confirm-email/", {"action": "resend"})
            first, second = (browsing.code_in(message) for message in mail.outbox[-2:])
            browsing.confirm(client, first)
            assert not browsing.is_signed_in(client)
            browsing.confirm(client, second)
            assert browsing.is_signed_in(client)

    def test_a_new_one_is_not_sent_at_once_again(self) -> None:
        client = Client()
        browsing.sign_up(client, browsing.address())
        client.post("/accounts/confirm-email/", {"action": "resend"})
        assert len(mail.outbox) == 1

    def test_it_belongs_to_the_browser_that_asked(self) -> None:
        browsing.sign_up(Client(), browsing.address())
        stranger = Client()
        browsing.confirm(stranger, browsing.code_in(mail.outbox[-1]))
        assert not browsing.is_signed_in(stranger)


class TestAnAddressThatIsTaken:
    def test_looks_the_same_and_only_the_mail_tells(self) -> None:
        _, taken = browsing.customer()
        fresh = browsing.address()
        pages = []
        for email in (taken, fresh):
            client = Client()
            response = browsing.sign_up(client, email)
            page = client.get("/accounts/confirm-email/").content.decode()
            pages.append((response.status_code, response["Location"], page.replace(email, "X")))
        assert _without_tokens(pages[0]) == _without_tokens(pages[1])
        assert "already has an account" in str(mail.outbox[-2].body)
        assert mail.outbox[-2].to == [taken]

    def test_is_taken_in_any_case(self) -> None:
        _, taken = browsing.customer()
        browsing.sign_up(Client(), taken.upper())
        assert User.objects.filter(email__iexact=taken).count() == 1
        assert "already has an account" in str(mail.outbox[-1].body)

    def test_and_no_code_ever_fits(self) -> None:
        _, taken = browsing.customer()
        client = Client()
        browsing.sign_up(client, taken)
        for code in ("", "BBBB-BBBB"):
            browsing.confirm(client, code)
        assert not browsing.is_signed_in(client)

    def test_a_quicker_sign_up_gets_the_same_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def taken(**_: object) -> None:
            raise registration.EmailTaken

        monkeypatch.setattr(registration, "open_account", taken)
        response = browsing.sign_up(Client(), browsing.address())
        assert response["Location"] == "/accounts/confirm-email/"
        assert "already has an account" in str(mail.outbox[-1].body)


def _without_tokens(page: tuple[int, str, str]) -> tuple[int, str, str]:
    status, location, text = page
    return status, location, re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", text)


class TestAMailServerThatIsAway:
    def test_is_said_and_the_sign_up_goes_on_when_it_is_back(self) -> None:
        client, email = Client(), browsing.address()
        with AWAY:
            response = browsing.sign_up(client, email)
            page = client.get(response["Location"]).content.decode()
        assert response.status_code == 302
        assert "Our mail server did not take a mail to you" in page

        with browsing.later(timedelta(seconds=11)):
            client.post("/accounts/confirm-email/", {"action": "resend"})
            browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
            assert browsing.is_signed_in(client)

    def test_the_sign_up_can_also_be_finished_by_signing_in(self) -> None:
        email = browsing.address()
        with AWAY:
            browsing.sign_up(Client(), email)
        client = Client()
        with browsing.later(timedelta(seconds=11)):
            browsing.sign_in(client, email)
            browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
            assert browsing.is_signed_in(client)

    def test_does_not_undo_what_the_mail_would_have_told(self) -> None:
        user, email = browsing.customer()
        client = Client()
        browsing.sign_in(client, email)
        with AWAY:
            fields = {"oldpassword": PASSWORD, "password1": "a new long one 123", "password2": "a new long one 123"}
            assert client.post("/accounts/password/change/", fields).status_code == 302
        user.refresh_from_db()
        assert user.check_password("a new long one 123")


class TestSigningInBeforeTheAddressIsConfirmed:
    def test_asks_for_a_new_code(self) -> None:
        email = browsing.address()
        browsing.sign_up(Client(), email)
        client = Client()
        with browsing.later(timedelta(seconds=11)):
            response = browsing.sign_in(client, email)
            assert response["Location"] == "/accounts/confirm-email/"
            assert not browsing.is_signed_in(client)
            browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
            assert browsing.is_signed_in(client)
        assert Transfer.objects.filter(wallet_id=User.objects.get(email=email).accounts.get().pk).count() == 1

    def test_users_made_in_the_admin_confirm_at_their_first_sign_in(self) -> None:
        email = browsing.address()
        User.objects.create_user(email, PASSWORD)
        client = Client()
        browsing.sign_in(client, email)
        assert not browsing.is_signed_in(client)
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
        assert browsing.is_signed_in(client)

    def test_users_made_at_the_command_line_need_not(self) -> None:
        email = f"Root-{browsing.address()}"
        User.objects.create_superuser(email, PASSWORD)
        client = Client()
        browsing.sign_in(client, email)
        assert browsing.is_signed_in(client)


class TestTooMany:
    def test_sign_ups_from_one_address_are_refused_for_a_while(self) -> None:
        answers = [browsing.sign_up(Client(), browsing.address()).status_code for _ in range(6)]
        assert answers == [302] * 5 + [429]

    def test_a_header_that_anybody_can_send_does_not_make_another_address(self) -> None:
        def sign_up(forwarded: str) -> int:
            fields = {"email": browsing.address(), "password1": PASSWORD}
            return Client().post("/accounts/signup/", fields, headers={"X-Forwarded-For": forwarded}).status_code

        assert [sign_up(f"198.51.100.{n}") for n in range(6)] == [302] * 5 + [429]

    @override_settings(ALLAUTH_TRUSTED_PROXY_COUNT=1)
    def test_behind_a_proxy_the_address_it_saw_counts(self) -> None:
        def sign_up(forwarded: str) -> int:
            fields = {"email": browsing.address(), "password1": PASSWORD}
            return Client().post("/accounts/signup/", fields, headers={"X-Forwarded-For": forwarded}).status_code

        # The last one is the proxy's word; what stands before it came from the client.
        assert [sign_up(f"203.0.113.{n}, 198.51.100.7") for n in range(6)] == [302] * 5 + [429]
        assert sign_up("198.51.100.8") == 302

    def test_the_page_says_what_to_do(self) -> None:
        for _ in range(5):
            browsing.sign_up(Client(), browsing.address())
        content = browsing.sign_up(Client(), browsing.address()).content.decode()
        assert "Too many tries" in content


def test_a_confirmation_that_fails_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    client, email = Client(), browsing.address()
    browsing.sign_up(client, email)
    monkeypatch.setattr(credits, "welcome", fail)
    with pytest.raises(ZeroDivisionError):
        browsing.confirm(client, browsing.code_in(mail.outbox[-1]))
    assert not EmailAddress.objects.get(email=email).verified
