"""Staff's view of what is sold, of the money and of the calls, by room as the models are."""

from billing.admin import (
    alerts,
    catalogue,
    closings,
    disputes,
    documents,
    payments,
    recharge,
    reconciliation,
    refunds,
    usage,
    vouchers,
    wallets,
)

__all__ = [
    "alerts",
    "catalogue",
    "closings",
    "disputes",
    "documents",
    "payments",
    "recharge",
    "reconciliation",
    "refunds",
    "usage",
    "vouchers",
    "wallets",
]
