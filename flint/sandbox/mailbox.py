"""The mails that the sandbox sent, for a laptop without a mail server."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe


@require_safe
def mailbox(request: HttpRequest) -> HttpResponse:
    return render(request, "sandbox/mailbox.html")
