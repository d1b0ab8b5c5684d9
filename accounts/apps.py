"""The name of this app's part of the admin; allauth has an "Accounts" of its own."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"
    verbose_name = "Customers and staff"
