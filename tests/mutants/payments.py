"""Mutants of the money that comes in: what Stripe is believed, how often it counts, and what a repeat does."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

API = "billing/payments/stripe_api.py"
CUSTOMERS = "billing/payments/customers.py"
FULFILMENT = "billing/payments/fulfilment.py"
INBOX = "billing/payments/inbox.py"
TOPUPS = "billing/payments/topups.py"
TESTS = "tests/billing/test_fulfilment.py"
BELIEVED = "tests/billing/test_inbox.py::test_what_stripe_did_not_send_changes_nothing"
FITS = f"{TESTS}::test_what_does_not_fit_credits_nothing_and_says_why"


def _never(file: str, condition: str) -> Edit:
    return Edit(file, f"if {condition}:", "if False:")


PAYMENTS = (
    Mutant(
        "signature",
        "A message counts whoever has signed it.",
        BELIEVED,
        (Edit(API, "            return\n    raise Forged\n", "            return\n"),),
    ),
    Mutant(
        "signed-in-the-future",
        "A stolen message can be kept for later.",
        BELIEVED,
        (Edit(API, "if signed_at and int(signed_at[1]) - now <= TOLERANCE_SECONDS:", "if signed_at:"),),
    ),
    Mutant(
        "message-mode",
        "Messages about test money count where money is real.",
        BELIEVED,
        (_never(INBOX, "event.livemode != livemode"),),
    ),
    Mutant(
        "object-mode",
        "A payment of test money credits real money.",
        FITS,
        (_never(FULFILMENT, "found.livemode != payment.livemode or found.livemode != settings.STRIPE_LIVEMODE"),),
    ),
    Mutant(
        "amount-received",
        "Less is paid than is credited.",
        FITS,
        (_never(FULFILMENT, "intent.amount_received != asked"),),
    ),
    Mutant(
        "whose-payment",
        "What another customer paid is credited.",
        FITS,
        (_never(FULFILMENT, "not was_credited and (customer is None or found.customer != customer)"),),
    ),
    Mutant(
        "older-intent",
        "Who has just paid is told that the bank said no.",
        f"{TESTS}::test_a_payment_made_while_we_ask_is_not_taken_for_one_that_failed",
        (_never(FULFILMENT, 'session and session.status == "complete" and intent.status != "succeeded"'),),
    ),
    Mutant(
        "session-key",
        "After a crash the customer has two pages to pay on.",
        f"{TESTS}::test_a_crash_before_the_session_is_noted_loses_no_payment",
        (Edit(TOPUPS, "key=str(payment.pk))", 'key=str(__import__("uuid").uuid4()))'),),
    ),
    Mutant(
        "customer-key",
        "People who pay at the same time make two customers of one account.",
        f"{TESTS}::test_an_account_has_one_customer_at_stripe_whoever_makes_it",
        (Edit(CUSTOMERS, "{row.created_at.isoformat()}", "{id(row)}"),),
    ),
    Mutant(
        "message-lease",
        "What a worker died over is never worked on.",
        "tests/billing/test_inbox.py::test_a_worker_that_died_leaves_the_message_to_the_next_attempt",
        (Edit(INBOX, "next_attempt_at=now + LEASE)", "next_attempt_at=None)"),),
    ),
    Mutant(
        "failed-for-good",
        "An outage of Stripe's loses its messages.",
        "tests/billing/test_inbox.py::test_an_outage_is_tried_again_later_and_then_done",
        (Edit(INBOX, "given_up = not again or event.attempts >= MOST_ATTEMPTS", "given_up = True"),),
    ),
    Mutant(
        "consent",
        "A card is kept without consent.",
        f"{TESTS}::test_a_card_is_kept_only_with_consent",
        (Edit(FULFILMENT, "if payment.save_card and intent.card:", "if intent.card:"),),
    ),
    Mutant(
        "mail-in-the-same-breath",
        "A receipt is mailed to nobody.",
        "tests/billing/test_document_mails.py::TestAReceipt::test_it_is_mailed_once_with_its_paper",
        (
            Edit(
                "billing/receipts.py",
                "        DocumentMail.objects.create(account=found.account, receipt=receipt)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "statements-declined",
        "Statements are mailed to who wants none.",
        "tests/billing/test_document_mails.py::TestAStatement"
        "::test_there_is_none_for_who_wants_none_even_if_it_was_written",
        (
            Edit(
                "billing/document_mails.py",
                "return _statement(mail, to, now) if statements_are_mailed(mail.account) else None",
                "return _statement(mail, to, now)",
            ),
        ),
    ),
    Mutant(
        "month-too-early",
        "A statement is sent before its last calls are charged.",
        "tests/billing/test_document_mails.py::TestAStatement::test_it_waits_until_every_call_of_the_month_is_charged",
        (Edit("billing/document_mails.py", "(now - ALL_CHARGED).date()", "now.date()"),),
    ),
    Mutant(
        "seal-forgets",
        "What Stripe and the books said of an object before counts no more once it moves again.",
        "tests/billing/test_clearing_seal.py::test_what_was_added_up_before_makes_no_difference[50000]",
        (
            Edit(
                "billing/payments/clearing_sql.py",
                "known.stripe_cents + excluded.stripe_cents",
                "excluded.stripe_cents",
            ),
        ),
    ),
    Mutant(
        "seal-too-early",
        "A transfer that is committed late is missed by the comparison with Stripe for ever.",
        "tests/billing/test_clearing_seal.py"
        "::test_a_transfer_that_is_committed_later_than_one_with_a_higher_number_is_not_missed",
        (
            Edit(
                "billing/payments/clearing.py",
                "if seal.next_at is not None and seal.next_at <= now - SEALED_AFTER:",
                "if seal.next_at is None:\n        (seal.next_id,), seal.next_at = "
                "_row(clearing_sql.LAST_TRANSFER, {}), now\n    if True:",
            ),
        ),
    ),
    Mutant(
        "one-look",
        "Everybody who waits at the page of a payment asks Stripe.",
        f"{TESTS}::test_many_who_look_at_once_ask_once",
        (
            Edit(
                FULFILMENT,
                "if due.update(asked_at=now) else payment",
                "if due.update(asked_at=now) or True else payment",
            ),
        ),
    ),
    Mutant(
        "real-money",
        "A production starts on books in which money of a test lies.",
        "tests/test_real_money.py::test_a_production_refuses_books_with_money_of_a_test_and_says_what_to_do[worker]",
        (
            _never(
                "billing/payments/real_money.py",
                "Transfer.objects.filter(Q(debit=simulated) | Q(credit=simulated)).exists()",
            ),
        ),
    ),
)
