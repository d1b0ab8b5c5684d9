"""The pages of API keys. A secret is in one answer only: that to the form which made the key."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from allauth.account.decorators import reauthentication_required
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import access
from accounts.access import Permission, requires
from accounts.models import Membership
from apikeys import keys as domain
from apikeys.forms import LimitsForm, NewKeyForm, RenameForm, RevokeForm, RotateForm
from apikeys.models import ApiKey

PAGE_SIZE = 50


@require_safe
@never_cache
@requires(Permission.SEE_KEYS)
def keys(request: HttpRequest, membership: Membership) -> HttpResponse:
    now = datetime.now(UTC)
    ended = request.GET.get("show") == "ended"
    chosen = ApiKey.objects.of_account(membership.account)
    chosen = chosen.ended(now) if ended else chosen.standing(now)
    before = request.GET.get("before", "")
    if before.isdecimal():
        chosen = chosen.filter(pk__lt=int(before))
    listed = chosen.with_state(now).select_related("created_by", "successor").order_by("-pk")
    page = list(listed[: PAGE_SIZE + 1])
    context = {"keys": page[:PAGE_SIZE], "more": len(page) > PAGE_SIZE, "ended": ended, "first_page": not before}
    return render(request, "apikeys/keys.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_OWN_KEYS)
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def create(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = NewKeyForm(request.POST or None, initial={"creation_id": uuid4(), "lifetime_days": ""})
    limits = LimitsForm(request.POST or None, tier=membership.account.tier)
    if form.is_valid() and limits.is_valid():
        try:
            key, secret = domain.create(
                account=membership.account,
                name=form.cleaned_data["name"],
                lifetime=form.lifetime,
                cap=limits.cap,
                **limits.limits,
                creation_id=form.cleaned_data["creation_id"],
                now=datetime.now(UTC),
                by=membership.user,
            )
        except domain.AlreadyCreated as repeat:
            return _shown_already(request, repeat.key)
        except domain.TooManyKeys as refusal:
            form.add_error(None, str(refusal))
        else:
            return render(request, "apikeys/secret.html", {"key": key, "secret": secret})
    return render(request, "apikeys/create.html", {"form": form, "limits": limits})


@require_safe
@never_cache
@requires(Permission.SEE_KEYS)
def key(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    return _key_page(request, membership, _of(membership, key_id))


@require_POST
@never_cache
@requires(Permission.MANAGE_OWN_KEYS)
def rename(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    form = RenameForm(request.POST)
    if not form.is_valid():
        return _key_page(request, membership, key, form)
    domain.rename(key=key, name=form.cleaned_data["name"], by=membership.user)
    messages.success(request, f"The key is now called {key.name}.")
    return redirect("apikeys:key", key.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_OWN_KEYS)
def limits(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    form = LimitsForm(request.POST or None, tier=membership.account.tier, key=key)
    if not form.is_valid():
        return render(request, "apikeys/limits.html", {"form": form, "key": key})
    domain.set_limits(key=key, by=membership.user, **form.limits)
    domain.set_spend_cap(key=key, cap=form.cap, by=membership.user)
    messages.success(request, f"The limits of {key.name} are changed.")
    return redirect("apikeys:key", key.pk)


@require_POST
@requires(Permission.MANAGE_OWN_KEYS)
def disable(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    domain.disable(chosen=ApiKey.objects.filter(pk=key.pk), now=datetime.now(UTC), by=membership.user)
    messages.success(request, f"{key.name} is disabled: its calls are refused with 403 until you enable it again.")
    return redirect("apikeys:key", key.pk)


@require_POST
@requires(Permission.MANAGE_OWN_KEYS)
def enable(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    domain.enable(chosen=ApiKey.objects.filter(pk=key.pk), by=membership.user)
    messages.success(request, f"{key.name} works again.")
    return redirect("apikeys:key", key.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_OWN_KEYS)
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth is not typed.
def rotate(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    form = RotateForm(request.POST or None, initial={"creation_id": uuid4()})
    if form.is_valid():
        try:
            made, secret = domain.rotate(
                key=key,
                overlap=form.overlap,
                creation_id=form.cleaned_data["creation_id"],
                now=datetime.now(UTC),
                by=membership.user,
            )
        except domain.AlreadyCreated as repeat:
            return _shown_already(request, repeat.key)
        except (domain.NotUsable, domain.TooManyKeys) as refusal:
            form.add_error(None, str(refusal))
        else:
            return render(request, "apikeys/secret.html", {"key": made, "secret": secret})
    return render(request, "apikeys/rotate.html", {"form": form, "key": key})


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_OWN_KEYS)
def revoke(request: HttpRequest, membership: Membership, key_id: int) -> HttpResponse:
    key = _to_change(membership, key_id)
    form = RevokeForm(request.POST or None, key=key)
    if not form.is_valid():
        return render(request, "apikeys/revoke.html", {"form": form, "key": key})
    domain.revoke(key=key, now=datetime.now(UTC), by=membership.user)
    messages.success(request, f"{key.name} is revoked: its calls are refused with 401, for ever.")
    return redirect("apikeys:keys")


def _of(membership: Membership, key_id: int) -> ApiKey:
    chosen = ApiKey.objects.of_account(membership.account).with_state(datetime.now(UTC))
    return get_object_or_404(chosen.select_related("created_by", "replaces", "successor"), pk=key_id)


def _to_change(membership: Membership, key_id: int) -> ApiKey:
    """Everybody's own, or anybody's for those who may change all."""
    key = _of(membership, key_id)
    if key.created_by_id != membership.user_id:
        access.insist(membership, Permission.MANAGE_ALL_KEYS)
    key.account = membership.account
    return key


def _key_page(
    request: HttpRequest, membership: Membership, key: ApiKey, form: RenameForm | None = None
) -> HttpResponse:
    own = key.created_by_id == membership.user_id
    may_change = access.may(membership, Permission.MANAGE_OWN_KEYS if own else Permission.MANAGE_ALL_KEYS)
    form = form or RenameForm(initial={"name": key.name})
    return render(request, "apikeys/key.html", {"key": key, "may_change": may_change, "form": form})


def _shown_already(request: HttpRequest, key: ApiKey) -> HttpResponse:
    return render(request, "apikeys/shown_already.html", {"key": key}, status=409)
