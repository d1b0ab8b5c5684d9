"""The nouns of billing, by room: what is sold (catalogue), the money (wallets), the calls (usage), what came in
from Stripe (payments), what goes back to a card (refunds), what banks want back (disputes), the saved card that is
charged by itself (recharge), credit for a code (vouchers), what is put on paper (documents), mails about a low balance
(alerts), accounts that are closed (closings), the work in the background (chores), what Stripe says of its side
(reconciliation)."""

from billing.models.alerts import BalanceThreshold, BalanceWatch, LowBalanceMail, WatchedTransfers
from billing.models.catalogue import LanguageModel, PriceRate, PriceVersion
from billing.models.chores import PeriodicTask, PromiseCheck
from billing.models.closings import AccountClosing
from billing.models.disputes import Dispute, DisputeMail, DisputeMovement, PaymentFlag
from billing.models.documents import (
    BillingDetails,
    DocumentMail,
    NoStatementMails,
    Receipt,
    ReceiptNumbers,
    StatementMonth,
)
from billing.models.payments import Payment, ReplacedCard, StripeCustomer, StripeEvent
from billing.models.recharge import AutoRecharge, RechargeMail
from billing.models.reconciliation import BalanceTransaction, ClearingCheck, ClearingSeal, ClearingSubject, StripeCursor
from billing.models.refunds import Refund, RefundMail
from billing.models.usage import (
    GatewayProcess,
    Hold,
    KeyBudget,
    LateUsageRecord,
    RefusedCalls,
    ReleasedHolds,
    UsageHour,
    UsageRecord,
)
from billing.models.vouchers import CodeTries, Voucher, VoucherRedemption
from billing.models.wallets import BooksCheck, CreditLot, LedgerAccount, RefundHold, Transfer, TransferKind, Wallet

__all__ = [
    "AccountClosing",
    "AutoRecharge",
    "BalanceThreshold",
    "BalanceTransaction",
    "BalanceWatch",
    "BillingDetails",
    "BooksCheck",
    "ClearingCheck",
    "ClearingSeal",
    "ClearingSubject",
    "CodeTries",
    "CreditLot",
    "Dispute",
    "DisputeMail",
    "DisputeMovement",
    "DocumentMail",
    "GatewayProcess",
    "Hold",
    "KeyBudget",
    "LanguageModel",
    "LateUsageRecord",
    "LedgerAccount",
    "LowBalanceMail",
    "NoStatementMails",
    "Payment",
    "PaymentFlag",
    "PeriodicTask",
    "PriceRate",
    "PriceVersion",
    "PromiseCheck",
    "Receipt",
    "ReceiptNumbers",
    "RechargeMail",
    "Refund",
    "RefundHold",
    "RefundMail",
    "RefusedCalls",
    "ReleasedHolds",
    "ReplacedCard",
    "StatementMonth",
    "StripeCursor",
    "StripeCustomer",
    "StripeEvent",
    "Transfer",
    "TransferKind",
    "UsageHour",
    "UsageRecord",
    "Voucher",
    "VoucherRedemption",
    "Wallet",
    "WatchedTransfers",
]
