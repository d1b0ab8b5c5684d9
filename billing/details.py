"""Who the customer is on paper: their billing details, which receipts and statements copy when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import transaction
from django_countries import countries

from accounts import access, audit
from accounts.access import Permission, insist
from accounts.audit import Action
from accounts.models import Account, Membership
from billing.models import BillingDetails

# Of the form, of what is stored, and the words for both.
FIELDS = {
    "company": "company",
    "name": "name",
    "address": "address",
    "address_more": "address",
    "postal_code": "postal code",
    "city": "city",
    "region": "state or region",
    "country": "country",
    "tax_id": "tax id",
    "email": "e-mail address",
}


def of(account: Account) -> BillingDetails | None:
    return BillingDetails.objects.filter(account=account).first()


def save(*, fields: Mapping[str, str], by: Membership) -> bool:
    """Keep what the form says; whether anything changed. What was printed before stays as it is.

    Raises PermissionDenied.
    """
    insist(by, Permission.MANAGE_MONEY)
    with transaction.atomic():
        # The account's row, as there may be no details yet: two people who save together are told apart.
        Account.objects.select_for_update(no_key=True).get(pk=by.account_id)
        before = of(by.account) or BillingDetails(account=by.account)
        changed = [name for name in FIELDS if getattr(before, name) != fields[name]]
        if not changed:
            return False
        BillingDetails(account=by.account, **{name: fields[name] for name in FIELDS}).save()
        # What was changed and not to what: an address is nothing for everybody who may read the activity.
        words = ", ".join(dict.fromkeys(FIELDS[name] for name in changed))
        audit.record(Action.BILLING_DETAILS_SET, account=by.account, by=by.user, object=words)
    return True


def lines(details: BillingDetails) -> list[str]:
    """The address as it stands on a letter, without the country's own rules of order."""
    city = " ".join(filter(None, [details.postal_code, details.city]))
    where = ", ".join(filter(None, [city, details.region]))
    shown = [details.company, details.name, details.address, details.address_more, where, country(details.country)]
    return [line for line in shown if line]


def contacts(account: Account) -> list[str]:
    """Where documents are mailed to: the address of the billing details, else everybody who may add funds."""
    known = of(account)
    if known is not None and known.email:
        return [known.email]
    roles = access.roles_with(Permission.MANAGE_MONEY)
    members = Membership.objects.filter(account=account, user__is_active=True, role__in=roles)
    return list(members.order_by("user__email").values_list("user__email", flat=True))


def seller() -> dict[str, Any]:
    """Who we are, for a document to copy."""
    tax_id = [f"Tax id {settings.COMPANY_TAX_ID}"] if settings.COMPANY_TAX_ID else []
    return {"lines": [settings.COMPANY_NAME, *settings.COMPANY_ADDRESS, *tax_id, settings.COMPANY_EMAIL]}


def buyer(account: Account) -> dict[str, Any]:
    """Who the customer is, for a document to copy; the name of the account alone until they have said more."""
    known = of(account)
    if known is None:
        return {"account": account.name, "lines": [account.name]}
    tax_id = [f"Tax id {known.tax_id}"] if known.tax_id else []
    return {"account": account.name, "lines": [*lines(known), *tax_id]}


def country(code: str) -> str:
    """Its name in English; the code itself where the list does not know it."""
    return str(countries.name(code)) or code
