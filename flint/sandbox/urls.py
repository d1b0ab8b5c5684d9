"""The pages of the sandbox: what a laptop lacks. They do not exist in production."""

from django.urls import path

from flint.sandbox import mailbox

app_name = "sandbox"

urlpatterns = [
    path("mailbox/", mailbox.mailbox, name="mailbox"),
]
