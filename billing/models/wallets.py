"""The money.

A **Transfer** moves an amount from one ledger account to another: one row, two sides, so it balances by
construction; it is never updated or deleted. A **Wallet** is the one ledger account that keeps a stored balance, one
for each customer. A **CreditLot** is what one credit left to spend. A **RefundHold** keeps back what a refund under way
will take. **BooksCheck** remembers how far the books of a wallet were proved. All amounts are pico-USD.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from accounts.models import Account
from billing import money


class Wallet(models.Model):
    """`posted - held` is what the customer can spend. `posted`, `debt`, `seq` move only under the wallet's lock."""

    account = models.OneToOneField(Account, primary_key=True, on_delete=models.PROTECT, related_name="wallet")
    posted = models.BigIntegerField(default=0, help_text="The sum of its transfers.")
    held = models.BigIntegerField(default=0, help_text="The sum of its open holds, of calls and of refunds.")
    debt = models.BigIntegerField(default=0, help_text="Usage, and money that went back, that no credit lot covered.")
    seq = models.BigIntegerField(default=0, help_text="The number of its transfers.")
    holds_opened = models.BigIntegerField(default=0)
    holds_recorded = models.BigIntegerField(default=0, help_text="Holds that ended in a usage record.")
    holds_released = models.BigIntegerField(default=0, help_text="Holds that ended without a charge, with a reason.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(held__gte=0), name="wallet_held_not_negative"),
            models.CheckConstraint(condition=Q(debt__gte=0), name="wallet_debt_not_negative"),
            models.CheckConstraint(
                condition=Q(holds_opened__gte=F("holds_recorded") + F("holds_released")),
                name="wallet_holds_end_once",
            ),
        ]

    def __str__(self) -> str:
        return f"wallet of {self.account}"

    @property
    def available(self) -> int:
        return self.posted - self.held


class LedgerAccount(models.TextChoices):
    """The chart of accounts. `wallet` means the wallet of the row."""

    WALLET = "wallet"
    USAGE_REVENUE = "usage_revenue"
    STRIPE_CLEARING = "stripe_clearing"
    SIMULATED_CLEARING = "simulated_clearing"
    STRIPE_FEES = "stripe_fees"
    TAX_PAYABLE = "tax_payable"
    BANK = "bank"
    PROMOTIONS = "promotions"
    ADJUSTMENTS = "adjustments"
    WRITE_OFFS = "write_offs"

    @staticmethod
    def clearing(*, livemode: bool) -> LedgerAccount:
        """What Stripe holds for us. Money of a test key or of the simulator is kept apart from real money."""
        return LedgerAccount.STRIPE_CLEARING if livemode else LedgerAccount.SIMULATED_CLEARING


CLEARING = (LedgerAccount.STRIPE_CLEARING, LedgerAccount.SIMULATED_CLEARING)


class TransferKind(models.TextChoices):
    TOPUP = "topup"
    TAX = "tax"
    FEE = "fee"
    PAYOUT = "payout"
    USAGE = "usage"
    PROMOTION = "promotion"
    EXPIRY = "expiry"
    REFUND = "refund"
    DISPUTE = "dispute"
    ADJUSTMENT = "adjustment"
    WRITE_OFF = "write_off"


# Which sides each kind may have: (debit, credit). Enforced by the database.
SIDES: dict[str, list[tuple[str, str]]] = {
    TransferKind.TOPUP: [
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.WALLET),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.WALLET),
    ],
    TransferKind.TAX: [
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.TAX_PAYABLE),
        (LedgerAccount.TAX_PAYABLE, LedgerAccount.STRIPE_CLEARING),  # Of what is refunded.
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.TAX_PAYABLE),
        (LedgerAccount.TAX_PAYABLE, LedgerAccount.SIMULATED_CLEARING),
    ],
    TransferKind.FEE: [
        (LedgerAccount.STRIPE_FEES, LedgerAccount.STRIPE_CLEARING),
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.STRIPE_FEES),  # A fee that Stripe gives back.
        (LedgerAccount.STRIPE_FEES, LedgerAccount.SIMULATED_CLEARING),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.STRIPE_FEES),
    ],
    TransferKind.PAYOUT: [
        (LedgerAccount.BANK, LedgerAccount.STRIPE_CLEARING),
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.BANK),  # One that the bank sent back.
        (LedgerAccount.BANK, LedgerAccount.SIMULATED_CLEARING),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.BANK),
    ],
    TransferKind.USAGE: [(LedgerAccount.WALLET, LedgerAccount.USAGE_REVENUE)],
    TransferKind.PROMOTION: [(LedgerAccount.PROMOTIONS, LedgerAccount.WALLET)],
    TransferKind.EXPIRY: [(LedgerAccount.WALLET, LedgerAccount.PROMOTIONS)],
    TransferKind.REFUND: [
        (LedgerAccount.WALLET, LedgerAccount.STRIPE_CLEARING),
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.WALLET),  # A refund that failed afterwards.
        (LedgerAccount.WALLET, LedgerAccount.SIMULATED_CLEARING),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.WALLET),
    ],
    TransferKind.DISPUTE: [
        (LedgerAccount.WALLET, LedgerAccount.STRIPE_CLEARING),
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.WALLET),
        (LedgerAccount.WALLET, LedgerAccount.SIMULATED_CLEARING),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.WALLET),
    ],
    TransferKind.ADJUSTMENT: [
        (LedgerAccount.ADJUSTMENTS, LedgerAccount.WALLET),
        (LedgerAccount.WALLET, LedgerAccount.ADJUSTMENTS),
        (LedgerAccount.ADJUSTMENTS, LedgerAccount.STRIPE_CLEARING),  # Stripe corrects our balance there.
        (LedgerAccount.STRIPE_CLEARING, LedgerAccount.ADJUSTMENTS),
        (LedgerAccount.ADJUSTMENTS, LedgerAccount.SIMULATED_CLEARING),
        (LedgerAccount.SIMULATED_CLEARING, LedgerAccount.ADJUSTMENTS),
    ],
    TransferKind.WRITE_OFF: [(LedgerAccount.WRITE_OFFS, LedgerAccount.WALLET)],
}


def _sides_allowed() -> Q:
    return reduce(
        or_,
        (Q(kind=kind, debit=debit, credit=credit) for kind, sides in SIDES.items() for debit, credit in sides),
    )


class Transfer(models.Model):
    """Triggers refuse UPDATE, DELETE and TRUNCATE: a mistake is corrected by another transfer."""

    kind = models.CharField(max_length=20, choices=TransferKind.choices)
    debit = models.CharField(max_length=20, choices=LedgerAccount.choices)
    credit = models.CharField(max_length=20, choices=LedgerAccount.choices)
    amount = models.BigIntegerField()
    cause = models.CharField(
        max_length=200, unique=True, help_text="What it was for; the same cause never moves twice."
    )
    day = models.DateField(help_text="The UTC day it belongs to.")
    # Three indexes below begin with it.
    wallet = models.ForeignKey(Wallet, null=True, on_delete=models.PROTECT, related_name="transfers", db_index=False)
    wallet_seq = models.BigIntegerField(null=True)
    balance_after = models.BigIntegerField(null=True)
    reason = models.CharField(max_length=500, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_amount_positive"),
            models.CheckConstraint(
                condition=Q(
                    Q(Q(debit="wallet") | Q(credit="wallet"), wallet__isnull=False)
                    & Q(wallet_seq__isnull=False, wallet_seq__gte=1, balance_after__isnull=False)
                )
                | Q(~Q(debit="wallet"), ~Q(credit="wallet"), wallet=None, wallet_seq=None, balance_after=None),
                name="transfer_wallet_side",
            ),
            models.CheckConstraint(condition=_sides_allowed(), name="transfer_sides_allowed"),
            models.UniqueConstraint(fields=["wallet", "wallet_seq"], name="transfer_wallet_seq_unique"),
        ]
        indexes = [
            # What statements read: the last transfer before a month, and the few that are not usage.
            models.Index(fields=["wallet", "day", "wallet_seq"], name="transfer_of_day"),
            models.Index(fields=["wallet", "day", "wallet_seq"], name="transfer_not_usage", condition=~Q(kind="usage")),
            # What is compared with Stripe: few among the transfers of usage.
            models.Index(
                fields=["id"],
                name="transfer_of_clearing",
                # No IN: PostgreSQL would write it down in other words when the index is built again by its definition.
                condition=reduce(or_, (Q(**{side: account}) for side in ("debit", "credit") for account in CLEARING)),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {money.display(self.amount)} ({self.cause})"


class CreditLot(models.Model):
    """Burned promotional first, soonest expiry first. Paid money never expires."""

    class Kind(models.TextChoices):
        PAID = "paid"
        PROMOTIONAL = "promotional"

    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="lots")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    amount = models.BigIntegerField()
    remaining = models.BigIntegerField()
    expires_at = models.DateTimeField(null=True, blank=True)
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="lot")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="lot_amount_positive"),
            models.CheckConstraint(
                condition=Q(remaining__gte=0, remaining__lte=F("amount")), name="lot_remaining_within_amount"
            ),
            models.CheckConstraint(
                condition=Q(kind="promotional") | Q(kind="paid", expires_at=None),
                name="lot_paid_never_expires",
            ),
        ]
        indexes = [
            models.Index(fields=["wallet"], name="lot_open", condition=Q(remaining__gt=0)),
            models.Index(
                fields=["expires_at"],
                name="lot_expiring",
                condition=Q(remaining__gt=0, expires_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} lot {self.amount}"


class RefundHold(models.Model):
    """Counted in `wallet.held` like the hold of a call, and deleted when the refund is posted or given up."""

    id = models.UUIDField(primary_key=True, help_text="The id of the refund.")
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="refund_holds")
    amount = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="refundhold_amount_positive")]

    def __str__(self) -> str:
        return f"hold of refund {self.id}"


class BooksCheck(models.Model):
    """How far `check_books` has proved one wallet, so that the next run reads only what came since."""

    wallet = models.OneToOneField(Wallet, primary_key=True, on_delete=models.CASCADE, related_name="books_check")
    seq = models.BigIntegerField(help_text="The last transfer proved.")
    balance = models.BigIntegerField()
    checked_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"books of {self.wallet_id} up to {self.seq}"
