"""The pages about people: the team of an account, what was done in it, and a person's own settings."""

from django.urls import path

from accounts import views

app_name = "accounts"

urlpatterns = [
    path("settings/", views.settings, name="settings"),
    path("settings/theme/", views.theme, name="theme"),
    path("team/", views.team, name="team"),
    path("activity/", views.activity, name="activity"),
]
