"""The pages about people: the team of an account, what was done in it, and a person's own settings."""

from django.urls import path

from accounts import team_views, views

app_name = "accounts"

urlpatterns = [
    path("settings/", views.settings, name="settings"),
    path("settings/theme/", views.theme, name="theme"),
    path("switch/", team_views.switch, name="switch"),
    path("team/", team_views.team, name="team"),
    path("team/account/", team_views.rename, name="rename"),
    path("team/leave/", team_views.leave, name="leave"),
    path("team/members/<int:member_id>/role/", team_views.role, name="role"),
    path("team/members/<int:member_id>/remove/", team_views.remove, name="remove"),
    path("team/invitations/", team_views.invite, name="invite"),
    path("team/invitations/<int:invitation_id>/again/", team_views.send_again, name="send_again"),
    path("team/invitations/<int:invitation_id>/withdraw/", team_views.withdraw, name="withdraw"),
    path("invitations/<str:token>/", team_views.invitation, name="invitation"),
    path("activity/", views.activity, name="activity"),
]
