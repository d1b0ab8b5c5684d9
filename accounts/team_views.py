"""Which account a person acts for, and its team: who belongs to it, who is invited, and how one joins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import access, invitations, registration
from accounts import team as domain
from accounts.access import Permission, requires
from accounts.forms import WORDS, AccountForm, InviteForm, RoleForm, roles_for
from accounts.models import Invitation, Membership, User


@require_POST
@login_required
def switch(request: HttpRequest) -> HttpResponse:
    account_id = request.POST.get("account", "")
    if not account_id.isdecimal() or access.choose(request, int(account_id)) is None:
        raise Http404
    return redirect("billing:home")


@require_POST
@requires(Permission.MANAGE_ACCOUNT)
def rename(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = AccountForm(request.POST)
    if form.is_valid():
        registration.rename(account=membership.account, name=form.cleaned_data["name"], by=membership.user)
        messages.success(request, f"The account is now called {membership.account}.")
    else:
        messages.error(request, "The name was not changed: it needs 1 to 100 characters.")
    return redirect("accounts:team")


@require_safe
@never_cache
@requires(Permission.SEE_TEAM)
def team(request: HttpRequest, membership: Membership) -> HttpResponse:
    return _page(request, membership, InviteForm(by=membership))


@require_POST
@never_cache
@requires(Permission.MANAGE_TEAM)
def role(request: HttpRequest, membership: Membership, member_id: int) -> HttpResponse:
    member = _member(membership, member_id)
    form = RoleForm(request.POST, by=membership)
    if not form.is_valid():
        messages.error(request, "Nothing was changed: that is no role that you may give.")
        return redirect("accounts:team")
    try:
        domain.change_role(member=member, role=form.cleaned_data["role"], by=membership)
    except domain.LastOwner as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"{member.user} is now {form.cleaned_data['role']}.")
    return redirect("accounts:team")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_TEAM)
def remove(request: HttpRequest, membership: Membership, member_id: int) -> HttpResponse:
    member = _member(membership, member_id)
    if request.method != "POST":
        return render(request, "accounts/remove.html", {"member": member})
    try:
        domain.remove(member=member, by=membership)
    except domain.LastOwner as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"{member.user} does not belong to {membership.account} any more.")
    return redirect("accounts:team")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.SEE_TEAM)
def leave(request: HttpRequest, membership: Membership) -> HttpResponse:
    if request.method != "POST":
        return render(request, "accounts/leave.html")
    try:
        domain.leave(member=membership)
    except domain.LastOwner as refusal:
        messages.error(request, str(refusal))
        return redirect("accounts:team")
    messages.success(request, f"You have left {membership.account}.")
    return redirect("billing:home")


@require_POST
@never_cache
@requires(Permission.MANAGE_TEAM)
def invite(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = InviteForm(request.POST, by=membership)
    if not form.is_valid():
        return _page(request, membership, form)
    fields = {"email": form.cleaned_data["email"], "role": form.cleaned_data["role"]}
    try:
        invitations.invite(**fields, now=datetime.now(UTC), by=membership)
    except invitations.Refused as refusal:
        form.add_error("email", str(refusal))
        return _page(request, membership, form)
    except invitations.NotSent as fault:
        messages.warning(request, str(fault))
    else:
        messages.success(request, f"{fields['email']} is invited.")
    return redirect("accounts:team")


@require_POST
@requires(Permission.MANAGE_TEAM)
def send_again(request: HttpRequest, membership: Membership, invitation_id: int) -> HttpResponse:
    invitation = _invitation(membership, invitation_id)
    try:
        invitations.send_again(invitation=invitation, now=datetime.now(UTC), by=membership)
    except invitations.Gone:
        messages.error(request, f"{invitation.email} was not invited any more.")
    except (invitations.Refused, invitations.NotSent) as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"{invitation.email} gets a new link; the old one does not work any more.")
    return redirect("accounts:team")


@require_POST
@requires(Permission.MANAGE_TEAM)
def withdraw(request: HttpRequest, membership: Membership, invitation_id: int) -> HttpResponse:
    invitation = _invitation(membership, invitation_id)
    try:
        invitations.withdraw(invitation=invitation, by=membership)
    except invitations.Gone:
        messages.error(request, f"Too late: {invitation.email} was not invited any more.")
    else:
        messages.success(request, f"The invitation of {invitation.email} is withdrawn.")
    return redirect("accounts:team")


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Everybody with the link may read whom it is for; only that person joins."""
    now = datetime.now(UTC)
    if request.method == "POST":
        return _join(request, token=token)
    try:
        found = invitations.find(token=token, now=now)
    except invitations.Gone:
        return render(request, "accounts/invitation_gone.html", status=404)
    may_accept = request.user.is_authenticated and invitations.is_for(found, request.user)
    return render(request, "accounts/invitation.html", {"invitation": found, "may_accept": may_accept})


@login_required
def _join(request: HttpRequest, *, token: str) -> HttpResponse:
    try:
        joined = invitations.accept(token=token, user=cast(User, request.user), now=datetime.now(UTC))
    except invitations.Gone:
        return render(request, "accounts/invitation_gone.html", status=404)
    except invitations.NotYours:
        return redirect("accounts:invitation", token)  # Where the page says what to do.
    access.act_for(request, joined.account_id)
    messages.success(request, f"Welcome to {joined.account}. You are {joined.role}.")
    return redirect("billing:home")


def _page(request: HttpRequest, membership: Membership, form: InviteForm) -> HttpResponse:
    may_manage = access.may(membership, Permission.MANAGE_TEAM)
    open_ones = membership.account.invitations.select_related("invited_by").order_by("-expires_at", "-pk")
    context = {
        "members": membership.account.memberships.select_related("user").order_by("pk"),
        "invitations": open_ones if may_manage else [],
        "form": form,
        "account_form": AccountForm(initial={"name": membership.account.name}),
        "roles": roles_for(membership),
        "words": WORDS.values(),
        "now": datetime.now(UTC),
    }
    return render(request, "accounts/team.html", context)


def _member(membership: Membership, member_id: int) -> Membership:
    return get_object_or_404(membership.account.memberships.select_related("user"), pk=member_id)


def _invitation(membership: Membership, invitation_id: int) -> Invitation:
    return get_object_or_404(membership.account.invitations.select_related("account"), pk=invitation_id)
