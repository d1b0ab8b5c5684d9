"""What a statement reads of a wallet: its last transfer before a day, and those that are not usage.

The index on the wallet alone goes: others begin with it, and settlement need not write it.

Built without locking out settlement, so outside of a transaction. A build that was interrupted (or gave up after the
lock_timeout, waiting for a long transaction to end) leaves an INVALID index: drop it and run the migration again.
"""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("billing", "0004_settled_usage_has_a_transfer")]

    operations = [
        AddIndexConcurrently(
            "transfer",
            models.Index(fields=["wallet", "day", "wallet_seq"], name="transfer_of_day"),
        ),
        AddIndexConcurrently(
            "transfer",
            models.Index(
                fields=["wallet", "day", "wallet_seq"],
                name="transfer_not_usage",
                condition=models.Q(("kind", "usage"), _negated=True),
            ),
        ),
        migrations.AlterField(
            "transfer",
            "wallet",
            models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=models.deletion.PROTECT,
                related_name="transfers",
                to="billing.wallet",
            ),
        ),
    ]
