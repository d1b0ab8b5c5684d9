"""The pages of API keys."""

from django.urls import path

from apikeys import views

app_name = "apikeys"

urlpatterns = [
    path("", views.keys, name="keys"),
    path("create/", views.create, name="create"),
    path("<int:key_id>/", views.key, name="key"),
    path("<int:key_id>/rename/", views.rename, name="rename"),
    path("<int:key_id>/limits/", views.limits, name="limits"),
    path("<int:key_id>/disable/", views.disable, name="disable"),
    path("<int:key_id>/enable/", views.enable, name="enable"),
    path("<int:key_id>/rotate/", views.rotate, name="rotate"),
    path("<int:key_id>/revoke/", views.revoke, name="revoke"),
]
