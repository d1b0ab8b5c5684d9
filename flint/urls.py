"""Which app answers which prefix. /v1 never comes here: flint/asgi.py gives it to the gateway."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from flint import staff

admin.site.site_header = "Flint"
admin.site.site_title = "Flint"
admin.site.index_title = "Operations"
# Staff sign in where everybody does, behind the same rate limits.
admin.site.has_permission = staff.may_enter  # type: ignore[method-assign]
admin.site.login = staff.sign_in  # type: ignore[method-assign,assignment]

handler500 = "flint.faults.server_error"

urlpatterns = [
    path("", include("billing.urls")),
    path("keys/", include("apikeys.urls")),
    path("", include("accounts.urls")),
    path("", include("gateway.site_urls")),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
]
if settings.ENVIRONMENT == "sandbox":
    urlpatterns += [path("sandbox/", include("flint.sandbox.urls"))]
