"""The addresses and names that allauth gives them. allauth.urls includes this, under /accounts/."""

from django.urls import path

from flint.single_sign_on import views

urlpatterns = [
    path("oidc/<str:provider_id>/login/", views.login, name="openid_connect_login"),
    path("oidc/<str:provider_id>/login/callback/", views.callback, name="openid_connect_callback"),
]
