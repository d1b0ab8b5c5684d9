"""The pages of billing."""

from django.urls import path

from billing.views import (
    alerts,
    auto_recharge,
    close,
    details,
    funds,
    overview,
    payments,
    receipts,
    redeem,
    requests,
    statement,
    usage,
    webhook,
)

app_name = "billing"

urlpatterns = [
    path("", overview.home, name="home"),
    path("first-steps/", overview.steps, name="first_steps"),
    path("usage/", usage.usage, name="usage"),
    path("usage/export.csv", usage.usage_csv, name="usage_csv"),
    path("requests/", requests.requests, name="requests"),
    path("requests/export.csv", requests.requests_csv, name="requests_csv"),
    path("requests/<uuid:call_id>/", requests.call, name="request"),
    path("billing/", payments.payments, name="payments"),
    path("billing/details/", details.details, name="details"),
    path("billing/receipts/<slug:number>/", receipts.receipt, name="receipt"),
    path("billing/receipts/<slug:number>/receipt.pdf", receipts.receipt_pdf, name="receipt_pdf"),
    path("billing/redeem/", redeem.redeem, name="redeem"),
    path("billing/alerts/", alerts.alerts, name="alerts"),
    path("billing/auto-recharge/", auto_recharge.show, name="auto_recharge"),
    path("billing/auto-recharge/off/", auto_recharge.turn_off, name="auto_recharge_off"),
    path("billing/auto-recharge/remove-card/", auto_recharge.remove_card, name="remove_card"),
    path("billing/close/", close.close, name="close"),
    path("statement/", statement.statement, name="statement"),
    path("statement/document/", statement.statement_paper, name="statement_paper"),
    path("statement/statement.pdf", statement.statement_pdf, name="statement_pdf"),
    path("statement/export.csv", statement.statement_csv, name="statement_csv"),
    path("billing/funds/", funds.add, name="funds"),
    path("billing/funds/<uuid:payment_id>/", funds.payment, name="payment"),
    path("billing/funds/<uuid:payment_id>/pay/", funds.pay, name="pay"),
    path("webhooks/stripe/", webhook.stripe, name="stripe_webhook"),
]
