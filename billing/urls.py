"""The pages of billing."""

from django.urls import path

from billing import views

app_name = "billing"

urlpatterns = [
    path("", views.home, name="home"),
    path("usage/", views.usage, name="usage"),
    path("requests/", views.requests, name="requests"),
    path("statement/", views.statement, name="statement"),
]
