"""Who the customer is.

A **User** is a person who signs in by e-mail. An **Account** is the tenant: it owns keys and money. A
**Membership** says which role a user has in an account, an **Invitation** which role somebody is offered. A **Tier** is
a set of rate limits that accounts share. An **AuditEvent** says what somebody did.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pghistory
from django.contrib.auth.models import AbstractUser, BaseUserManager
from django.db import models, transaction
from django.db.models.functions import Now, Upper


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        with transaction.atomic(using=self._db):
            user = self.create_user(email, password, is_staff=True, is_superuser=True, **fields)
            self.vouch_for_email(user)
        return user

    def vouch_for_email(self, user: User) -> None:
        """Take the address as confirmed: an operator at the command line knows whom it belongs to."""
        user.emailaddress_set.update_or_create(email=user.email.lower(), defaults={"verified": True, "primary": True})

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email__iexact=username)


@pghistory.track(fields=["email", "is_active", "is_staff", "is_superuser"], model_name="UserHistory")
class User(AbstractUser):
    username = None  # type: ignore[assignment]  # People sign in by e-mail; there are no user names.
    email = models.EmailField("e-mail address")

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[UserManager] = UserManager()  # type: ignore[assignment]
    emailaddress_set: Any  # allauth's: which addresses are confirmed.

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Upper("email"),  # Upper, because that is how Django's iexact asks: lookups use this index.
                name="user_email_unique",
                violation_error_message="There is already a user with this e-mail address.",
            )
        ]

    def __str__(self) -> str:
        return self.email


@pghistory.track(model_name="TierHistory")
class Tier(models.Model):
    """Rate limits. Standard is published; an Enterprise customer gets a tier of its own."""

    name = models.CharField(max_length=50, unique=True)
    requests_per_minute = models.PositiveIntegerField()
    tokens_per_minute = models.PositiveIntegerField()
    concurrent_requests = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(requests_per_minute__gte=1, tokens_per_minute__gte=1, concurrent_requests__gte=1),
                name="tier_limits_positive",
            )
        ]

    def __str__(self) -> str:
        return self.name


@pghistory.track(model_name="AccountHistory")
class Account(models.Model):
    """The tenant that owns keys and money."""

    name = models.CharField(max_length=100)
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, related_name="accounts")
    users = models.ManyToManyField(User, through="Membership", related_name="accounts")
    created_at = models.DateTimeField(auto_now_add=True)
    disabled_at = models.DateTimeField(null=True, blank=True, help_text="Calls are refused with 403 from this moment.")

    def __str__(self) -> str:
        return self.name


@pghistory.track(model_name="MembershipHistory")
class Membership(models.Model):
    """The role of a user in an account."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        MEMBER = "member"
        BILLING = "billing"

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "user"], name="membership_unique"),
            models.CheckConstraint(
                condition=models.Q(role__in=["owner", "admin", "member", "billing"]),
                name="membership_role_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role} of {self.account})"


class Invitation(models.Model):
    """Somebody may join with this role until then. Its row is gone once it is accepted or withdrawn."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField("e-mail address")
    role = models.CharField(max_length=10, choices=Membership.Role.choices)
    invited_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint("account", Upper("email"), name="invitation_unique"),
            models.CheckConstraint(
                condition=models.Q(role__in=["owner", "admin", "member", "billing"]), name="invitation_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} ({self.role} of {self.account})"


class AuditEvent(models.Model):
    """Who did what, when and from where; written by `audit`. The database refuses to change or delete one."""

    account = models.ForeignKey(
        Account, null=True, on_delete=models.PROTECT, related_name="+", db_index=False, help_text="None: people only."
    )
    actor = models.ForeignKey(
        User, null=True, on_delete=models.PROTECT, related_name="+", help_text="None: an operator's command."
    )
    action = models.CharField(max_length=50)
    object = models.CharField(max_length=300, help_text="What it was done to, by the name it had.")
    details = models.JSONField(default=dict)
    ip = models.GenericIPAddressField("IP address", null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["account", "-id"], name="audit_event_of_account")]

    def __str__(self) -> str:
        return f"{self.action} {self.object}".rstrip()
