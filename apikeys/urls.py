"""The pages of API keys."""

from django.urls import path

from apikeys import views

app_name = "apikeys"

urlpatterns = [
    path("", views.keys, name="keys"),
]
