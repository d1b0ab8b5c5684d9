"""Who is named on receipts and statements."""

from __future__ import annotations

from django.contrib import messages
from django.forms import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.access import Permission, requires
from accounts.models import Membership
from billing import details as domain
from billing.forms import DetailsForm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@requires(Permission.MANAGE_MONEY)
def details(request: HttpRequest, membership: Membership) -> HttpResponse:
    if request.method != "POST":
        known = domain.of(membership.account)
        form = DetailsForm(initial=model_to_dict(known) if known else {})
        return render(request, "billing/details.html", {"form": form})
    form = DetailsForm(request.POST)
    if not form.is_valid():
        return render(request, "billing/details.html", {"form": form})
    if domain.save(fields=form.cleaned_data, by=membership):
        messages.success(request, "Saved. Receipts from now on carry these details.")
    else:
        messages.success(request, "Nothing was different.")
    return redirect("billing:payments")
