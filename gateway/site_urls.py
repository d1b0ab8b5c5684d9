"""Where the site has the pages of the gateway. The road of /v1 has URLs of its own, in `urls`."""

from django.urls import path

from gateway import pages

app_name = "gateway"

urlpatterns = [path("docs/", pages.docs, name="docs")]
