"""Which app answers which prefix. /v1 never comes here: flint/asgi.py gives it to the gateway."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
]
