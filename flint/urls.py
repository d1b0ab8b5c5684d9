"""Which app answers which prefix. /v1 never comes here: flint/asgi.py gives it to the gateway."""

from allauth.account import views as account
from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

admin.site.site_header = "Flint"
admin.site.site_title = "Flint"
admin.site.index_title = "Operations"
# Staff sign in where everybody does, behind the same rate limits.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # As allauth documents it.

handler500 = "flint.faults.server_error"

urlpatterns = [
    path("", include("billing.urls")),
    # Of allauth only what has a page of its own so far; the sign-up page says whom to write to.
    path("accounts/login/", account.login, name="account_login"),
    path("accounts/logout/", account.logout, name="account_logout"),
    path("accounts/signup/", account.signup, name="account_signup"),
    path("admin/", admin.site.urls),
]
