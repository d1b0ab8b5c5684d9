"""What tests of receipts and statements share: payments that are paid or disputed, and the text of a PDF."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pypdfium2

from accounts.models import Account
from billing import money
from billing.models import Dispute, LedgerAccount, Payment, TransferKind
from tests import factories


def paid(account: Account, cents: int = 1000, *, tax: int = 0, livemode: bool = False, **fields: Any) -> Payment:
    """A payment as it is when Stripe has said that it succeeded, before its receipt."""
    clearing = LedgerAccount.STRIPE_CLEARING if livemode else LedgerAccount.SIMULATED_CLEARING
    intent = factories.unique("pi")
    credit = {"kind": TransferKind.TOPUP, "source": clearing, "cause": f"stripe:pi:{intent}"}
    done = {
        "state": Payment.State.PAID,
        "transfer": factories.credit(account, cents * money.PICO_PER_CENT, **credit),
        "payment_intent": intent,
        "paid_at": datetime.now(UTC),
        "tax_cents": tax,
        "total_cents": cents + tax,
    }
    return payment(account, cents, livemode=livemode, **{**done, **fields})


def payment(account: Account, cents: int = 1000, **fields: Any) -> Payment:
    return Payment.objects.create(
        **{"account": account, "kind": "topup", "livemode": False, "amount_cents": cents, **fields}
    )


def dispute(of: Payment, cents: int = 1000, **fields: Any) -> Dispute:
    """An open one, of which the bank awaits an answer within a week."""
    now = datetime.now(UTC)
    known = {"stripe_id": factories.unique("du"), "status": "needs_response", "reason": "fraudulent"}
    times = {"opened_at": now, "asked_at": now, "due_by": now + timedelta(days=7)}
    return Dispute.objects.create(**{"payment": of, "amount_cents": cents, **known, **times, **fields})


def text_of(document: bytes) -> str:
    """What a person can select and copy, page after page."""
    with pypdfium2.PdfDocument(document) as pdf:
        return "\n".join(page.get_textpage().get_text_range() for page in pdf)


def pages_of(document: bytes) -> int:
    with pypdfium2.PdfDocument(document) as pdf:
        return len(pdf)
