"""allauth's hooks for this site: where sign-up meets accounts, billing and the mail server.

Here and not in `accounts`, because a confirmed address may earn credit, and accounts know nothing of money.
"""

from __future__ import annotations

import logging
import smtplib
from datetime import UTC, datetime
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.signup import prevent_enumeration
from allauth.account.models import EmailAddress
from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.base.constants import AuthProcess
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from accounts import access, audit, registration
from accounts.audit import Action
from accounts.models import User
from billing import credits
from flint import sessions
from flint.single_sign_on import nonce
from gateway import credentials

log = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is not typed.
    def save_user(self, request: HttpRequest, user: User, form: BaseForm, commit: bool = True) -> User:
        user = super().save_user(request, user, form, commit=False)
        _open_account(request, user)
        return user

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        if EmailAddress.objects.filter(user_id=email_address.user_id, verified=True).exists():
            return bool(super().confirm_email(request, email_address))
        with transaction.atomic():
            confirmed = bool(super().confirm_email(request, email_address))
            if confirmed:
                _welcome(email_address.user)
        return confirmed

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        try:
            super().send_mail(template_prefix, email, context)
        except (smtplib.SMTPException, OSError) as fault:
            # What the mail is about has happened, and every page that waits for a mail offers to send it again.
            log.error("mail: %s could not be sent: %r", template_prefix, fault)
            messages.error(
                self.request,
                "Our mail server did not take a mail to you. If you wait for one, ask for it again in a minute.",
            )

    def send_account_already_exists_mail(self, email: str) -> None:
        make_password("as slow as making a user, so that time does not tell which addresses are taken")
        super().send_account_already_exists_mail(email)

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        if self.request.method != "POST":
            # It was given up there, and the next proof is for the page alone.
            access.forget_what_waits_for_a_proof(self.request)
        # Nobody shall be asked for the same password twice on the way to the first key.
        return not sessions.signed_in_lately(self.request) and bool(
            super().is_reauthentication_required(app=app, **kwargs)
        )

    def post_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse:
        audit.record(Action.PERSON_SIGNED_IN, account=None, by=user)
        response: HttpResponse = super().post_login(request, user, **kwargs)
        return response

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        # The row is written for unknown addresses, too, so that time does not tell which are known; but mistyped ones
        # are nobody's business.
        user = User.objects.filter(email__iexact=credentials.get("email", "")).first()
        whose = user.email if user else "an address that nobody has"
        audit.record(Action.PERSON_SIGN_IN_FAILED, account=None, by=None, object=whose)

    def send_notification_mail(
        self, template_prefix: str, user: User, context: dict[str, Any] | None = None, email: str | None = None
    ) -> None:
        # allauth tells a person of every change of their sign-in, so here all of them pass.
        change = template_prefix.rpartition("/")[2].replace("_", " ")
        audit.record(Action.PERSON_SIGN_IN_CHANGED, account=None, by=user, object=change)
        super().send_notification_mail(template_prefix, user, context, email)

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("accounts:settings")

    def get_email_verification_redirect_url(self, email_address: EmailAddress) -> str:
        return reverse("accounts:settings" if self.request.user.is_authenticated else "account_login")


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    error_messages = {
        **DefaultSocialAccountAdapter.error_messages,
        "no_password": "This is your only way to sign in. Set a password in your settings first.",
    }

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        if "nonce" in sociallogin.state:
            nonce.check(sociallogin)
        if sociallogin.is_existing or sociallogin.state.get("process") == AuthProcess.CONNECT:
            return
        # Of an address that the provider does not vouch for, allauth tells nobody but the address.
        vouched_for = {address.email for address in sociallogin.email_addresses if address.verified}
        for email in vouched_for:
            if User.objects.filter(email__iexact=email).exists():
                name = sociallogin.provider.name
                messages.error(
                    request,
                    f"{email} has signed up here already. Sign in as before; in your settings you can then "
                    f"connect {name} and sign in with it from then on.",
                )
                raise ImmediateHttpResponse(redirect("account_login"))

    def on_authentication_error(self, request: HttpRequest, provider: Any, **reason: Any) -> None:
        log.warning("sign-in with %s failed: %s %r", provider, reason.get("error"), reason.get("exception"))

    def save_user(self, request: HttpRequest, sociallogin: Any, form: BaseForm | None = None) -> User:
        with transaction.atomic():
            if form is None:  # With a form the other adapter opens the account.
                sociallogin.user.set_unusable_password()
                _open_account(request, sociallogin.user)
            user: User = super().save_user(request, sociallogin, form)
            if EmailAddress.objects.filter(user=user, verified=True).exists():
                _welcome(user)
        return user


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        return credentials.encrypt(text).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return credentials.decrypt(encrypted_text.encode())

    def generate_authenticator_name(self, user: User, type: Authenticator.Type) -> str:
        return f"Passkey {Authenticator.objects.filter(user=user, type=type).count() + 1}"

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        return {"id": context.request.get_host().partition(":")[0], "name": "Flint"}


def _open_account(request: HttpRequest, user: User) -> None:
    try:
        registration.open_account(user=user, by=user)
    except registration.EmailTaken:
        # Another request was quicker. The answer is the one for every taken address, which does not say so.
        raise ImmediateHttpResponse(prevent_enumeration(request, email=user.email)) from None


def _welcome(user: User) -> None:
    account = registration.own_account(user=user)
    if account is not None:
        credits.welcome(account=account, amount=settings.WELCOME_CREDIT, now=datetime.now(UTC))
