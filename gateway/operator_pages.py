"""The pages on which operators see how backends do, try them, drain them and take them into service again.

They are part of the admin, and of its permissions for backends: looking needs that to view, everything else to change.
"""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.decorators import permission_required, user_passes_test
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.models import User
from billing import clock
from billing.models import LanguageModel
from gateway import backends, operations, trials
from gateway.models import Attempt, Backend, Route
from gateway.operations import DEFAULT_PERIOD, PERIODS, Selection

FILTERS = ("period", "backend", "model")
_may_change = permission_required("gateway.change_backend", raise_exception=True)


def _may_view(user: Any) -> bool:
    if user.has_perm("gateway.view_backend") or user.has_perm("gateway.change_backend"):
        return True
    raise PermissionDenied


@require_safe
@never_cache
@user_passes_test(_may_view)
def overview(request: HttpRequest) -> HttpResponse:
    """The whole page; the part of it that changes for a page that is open."""
    view = operations.read(_selection(request.GET), now=clock.now())
    context = {
        **admin.site.each_context(request),
        "title": "How backends do",
        "is_nav_sidebar_enabled": False,  # Its tables are wide.
        "view": view,
        "periods": PERIODS.values(),
        "may_change": request.user.has_perm("gateway.change_backend"),
    }
    is_refresh = request.headers.get("HX-Request") == "true"
    return render(request, "gateway/_operations.html" if is_refresh else "gateway/operations.html", context)


@require_POST
@_may_change
def try_it(request: HttpRequest) -> HttpResponse:
    """Ask a backend for one word, and say what came of it. Does it good or bad, nobody is charged."""
    number = request.POST.get("route", "")
    routes = Route.objects.select_related("backend", "model")
    route = get_object_or_404(routes, pk=int(number) if number.isdecimal() else None)
    found = trials.run(route)
    tell = messages.success if found.result == Attempt.Result.OK else messages.error
    tell(request, f"Asked {route.backend} for {route.model}: {found.words} ({found.duration_ms} ms).")
    return redirect(_back(request))


@require_http_methods(["GET", "HEAD", "POST"])
@_may_change
def drain(request: HttpRequest, pk: int) -> HttpResponse:
    return _switched(request, get_object_or_404(Backend, pk=pk), enabled=False)


@require_http_methods(["GET", "HEAD", "POST"])
@_may_change
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    return _switched(request, get_object_or_404(Backend, pk=pk), enabled=True)


def _switched(request: HttpRequest, backend: Backend, *, enabled: bool) -> HttpResponse:
    """Ask first, saying what will happen; then do it, once."""
    if request.method != "POST":
        context = {
            **admin.site.each_context(request),
            "title": f"Take {backend} into service again" if enabled else f"Drain {backend}",
            "backend": backend,
            "enabled": enabled,
            "running": operations.running_at(backend),
            "alone": operations.served_by_nobody_else(backend),
            "filters": _filters(request.GET).urlencode(),
        }
        return render(request, "gateway/switch_backend.html", context)
    turn = backends.resume if enabled else backends.drain
    if turn(Backend.objects.filter(pk=backend.pk)):
        word = "Taken into service again" if enabled else "Drained"
        LogEntry.objects.log_actions(cast(User, request.user).pk, [backend], CHANGE, f"{word}.")
        effect = "gets calls again" if enabled else "gets no new calls, and those that run finish"
        messages.success(request, f"Within two seconds {backend} {effect}.")
    else:
        messages.info(request, f"The backend {backend} is {'in service' if enabled else 'drained'} already.")
    return redirect(_back(request))


def _selection(query: QueryDict) -> Selection:
    """What it does not know is as if it were not asked for."""
    period = PERIODS.get(query.get("period", ""), PERIODS[DEFAULT_PERIOD])
    name, public_id = query.get("backend"), query.get("model")
    model = LanguageModel.objects.filter(public_id=public_id).first() if public_id else None
    known = Backend.objects.filter(name=name).exists() if name else False
    return Selection(period, name if known else None, model.pk if model else None)


def _filters(query: QueryDict) -> QueryDict:
    """Those of the page, to come back to."""
    kept = QueryDict(mutable=True)
    kept.update({name: value for name in FILTERS if (value := query.get(name))})
    return kept


def _back(request: HttpRequest) -> str:
    filters = _filters(QueryDict(request.POST.get("filters", ""))).urlencode()
    return reverse("admin:gateway_backend_operations") + (f"?{filters}" if filters else "")


URLS: list[URLPattern] = [
    path("operations/", admin.site.admin_view(overview), name="gateway_backend_operations"),
    path("operations/try/", admin.site.admin_view(try_it), name="gateway_backend_try"),
    path("<int:pk>/drain/", admin.site.admin_view(drain), name="gateway_backend_drain"),
    path("<int:pk>/resume/", admin.site.admin_view(resume), name="gateway_backend_resume"),
]
