"""What is compared with Stripe, found without reading the transfers of usage. Built without locking out settlement."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("billing", "0024_payment_history")]

    operations = [
        AddIndexConcurrently(
            "transfer",
            models.Index(
                fields=["id"],
                name="transfer_of_clearing",
                condition=models.Q(
                    ("debit", "stripe_clearing"),
                    ("debit", "simulated_clearing"),
                    ("credit", "stripe_clearing"),
                    ("credit", "simulated_clearing"),
                    _connector="OR",
                ),
            ),
        ),
    ]
