"""What is put on paper. **BillingDetails** say who a customer is on the documents about their money."""

from __future__ import annotations

import pghistory
from django.db import models

from accounts.models import Account


@pghistory.track(model_name="BillingDetailsHistory")
class BillingDetails(models.Model):
    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="billing_details")
    company = models.CharField(max_length=200, blank=True)
    name = models.CharField(max_length=200, blank=True)
    address = models.CharField(max_length=200)
    address_more = models.CharField(max_length=200, blank=True)
    postal_code = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100)
    region = models.CharField(max_length=100, blank=True)
    country = models.CharField(max_length=2, help_text="ISO 3166-1, two letters.")
    tax_id = models.CharField("tax id", max_length=40, blank=True)
    email = models.EmailField("e-mail address", blank=True, help_text="Where documents are sent; empty: the owners.")

    class Meta:
        verbose_name_plural = "billing details"
        constraints = [
            models.CheckConstraint(condition=~models.Q(company="", name=""), name="billing_details_name_somebody"),
        ]

    def __str__(self) -> str:
        return self.company or self.name
