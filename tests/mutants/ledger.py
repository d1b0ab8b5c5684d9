"""Mutants of the ledger: what moves a balance, and what the database refuses (P1 to P4 and P6 to P9)."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

PYTHON = "billing/ledger.py"
SQL = "billing/ledger_sql.py"
TABLES = "billing/migrations/0001_initial.py"
BUDGETS = "billing/migrations/0009_key_budgets.py"
TRIGGERS = "billing/migrations/0003_immutable_rows.py"

_CAUSE_TWICE = Edit(
    TABLES,
    "the same cause never moves twice.', max_length=200, unique=True)",
    "the same cause never moves twice.', max_length=200)",
)
_SETTLED_AGAIN = Edit(TRIGGERS, "WHEN (OLD.settled_at IS NOT NULL\n", "WHEN (false\n")
_GUARD = Edit(SQL, "FROM ranked WHERE available_after >= 0 AND (", "FROM ranked WHERE (")
_CHECK = Edit(TABLES, "models.Q(('available_after__gte', 0))", "models.Q(('available_after__gte', -(2**62)))")

REFUSED = (
    Mutant(
        "cause-key",
        "One cause can move money twice.",
        "tests/billing/test_refusals.py::test_the_database_refuses_what_breaks[billing_transfer_cause]",
        (_CAUSE_TWICE,),
    ),
    Mutant(
        "transfer-changes",
        "A transfer can be changed afterwards.",
        "tests/billing/test_refusals.py::test_a_transfer_is_never_changed",
        (Edit(TRIGGERS, "transfer_append_only BEFORE UPDATE OR DELETE", "transfer_append_only BEFORE DELETE"),),
    ),
    Mutant(
        "record-changes",
        "A settled record can be made unsettled, and charged again.",
        "tests/billing/test_refusals.py::test_what_a_call_was_charged_is_never_changed",
        (_SETTLED_AGAIN,),
    ),
)

RESERVED = (
    Mutant(
        "guard",
        "P6: a wallet is spent below zero.",
        "tests/billing/test_reserve.py::test_a_call_that_fits_exactly_is_admitted_and_one_pico_more_is_not",
        (_GUARD, _CHECK),
    ),
    Mutant(
        "guard-without-check",
        "P6: nothing but the statement keeps a wallet from being spent below zero.",
        "tests/billing/test_refusals.py::test_the_database_refuses_what_breaks[hold_available_after_not_negative]",
        (_CHECK,),
    ),
    Mutant(
        "running-sum",
        "The calls of one batch do not see each other, so that together they spend more than there is.",
        "tests/billing/test_reserve.py::test_calls_of_one_batch_are_admitted_by_running_sum_in_the_order_asked",
        (Edit(SQL, "sum(amount) OVER (PARTITION BY account_id ORDER BY position)", "amount"),),
    ),
    Mutant(
        "reserve-lock",
        "A hold is granted from a balance that another one is just taking.",
        "tests/billing/test_reserve.py::test_waiting_for_a_locked_wallet_sees_what_the_other_left",
        (Edit(SQL, "       FOR NO KEY UPDATE {wait}\n", ""),),
    ),
    Mutant(
        "reserve-skip-locked",
        "One customer's locked wallet delays all other customers.",
        "tests/billing/test_reserve.py::test_a_locked_wallet_is_skipped_and_delays_nobody_else",
        (Edit(SQL, 'wait="SKIP LOCKED"', 'wait=""'),),
    ),
    Mutant(
        "release-of-recorded",
        "A call that has a record gives its hold back, too.",
        "tests/billing/test_release.py::test_a_hold_whose_call_is_recorded_is_not_given_back",
        (
            Edit(
                SQL,
                "       AND NOT EXISTS (SELECT FROM billing_usagerecord record WHERE record.id = billing_hold.id)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "release-of-swept",
        "A hold that the sweeper is just closing is given back, too.",
        "tests/billing/test_release.py::test_a_release_that_waits_for_the_sweeper_leaves_the_hold_to_settlement",
        (Edit(SQL, "       AND resolved_at IS NULL\n       AND NOT EXISTS", "       AND NOT EXISTS"),),
    ),
    Mutant(
        "release-uncounted",
        "P7: a hold ends without a reason.",
        "tests/billing/test_release.py::test_a_released_hold_gives_its_money_back_and_is_counted_under_its_reason",
        (Edit(SQL, ", holds_released = holds_released + total.calls", ""),),
    ),
)

CAPPED = (
    Mutant(
        "cap-guard",
        "P6: a key spends more than its cap.",
        "tests/billing/test_key_budgets.py::test_a_call_that_fits_the_cap_exactly_is_admitted_and_one_pico_more_is_not",
        (
            Edit(SQL, " AND (cap IS NULL OR budget_left_after >= 0)", ""),
            Edit(BUDGETS, "('budget_left_after__gte', 0), ", ""),
        ),
    ),
    Mutant(
        "cap-running-sum",
        "The calls of one batch do not see each other, so that together they spend more than the cap of their key.",
        "tests/billing/test_key_budgets.py::test_calls_of_one_batch_share_the_cap_by_running_sum_in_the_order_asked",
        (Edit(SQL, "sum(amount) OVER (PARTITION BY budget_id ORDER BY position)", "amount"),),
    ),
    Mutant(
        "cap-lock",
        "A key's call is admitted by what its budget had before another one took from it.",
        "tests/billing/test_key_budgets.py::test_waiting_for_the_wallet_sees_what_the_other_left_of_the_cap",
        (Edit(SQL, "       FOR NO KEY UPDATE OF budget\n", ""),),
    ),
    Mutant(
        "cap-opened-beside-settlement",
        "P9: a budget begins without what a settlement is just charging.",
        "tests/billing/test_key_budgets.py::test_a_budget_that_opens_while_its_wallet_is_settled_misses_no_charge",
        (Edit(PYTHON, "        await database.execute(sql.LOCK_WALLET, [ask.account_id])\n", ""),),
    ),
    Mutant(
        "cap-release",
        "P9: a call that failed free keeps its share of the cap.",
        "tests/billing/test_key_budgets.py::test_a_released_call_gives_back_once",
        (Edit(SQL, "SET held = budget.held - part.amount", "SET held = budget.held"),),
    ),
    Mutant(
        "cap-unspent",
        "P9: what a call was charged does not count in the budget of its key.",
        "tests/billing/test_key_budgets.py::test_what_a_call_did_not_cost_is_there_again",
        (Edit(SQL, ", spent = budget.spent + part.spent", ""),),
    ),
    Mutant(
        "cap-rotated",
        "Whoever rotates a key may spend its cap again.",
        "tests/billing/test_key_budgets.py::test_a_rotation_does_not_start_the_period_anew",
        (Edit("apikeys/keys.py", "            first_id=old.line_id,\n", ""),),
    ),
)

SETTLED = (
    Mutant(
        "settle-lock",
        "Two settlers work on one wallet at the same time, each from what it saw before the other.",
        "tests/billing/test_settle_races.py::test_whoever_moves_a_balance_waits_for_the_lock_of_the_wallet[settle]",
        (
            Edit(
                PYTHON,
                "        cursor.execute(sql.LOCK_WALLET, [account_id])\n        # A statement of its own",
                "        # A statement of its own",
            ),
        ),
    ),
    Mutant(
        "settle-twice",
        "A record that is settled is charged again, and nothing of the database stands in the way.",
        "tests/billing/test_usage.py::TestRecord::test_a_repeat_of_ours_is_dropped",
        (
            Edit(SQL, " AND settled_at IS NULL\n       AND EXISTS", "\n       AND EXISTS"),
            Edit(SQL, " AND settled_at IS NULL\n       AND admitted_at", "\n       AND admitted_at"),
            _SETTLED_AGAIN,
            _CAUSE_TWICE,
        ),
    ),
    Mutant(
        "settle-unmarked",
        "P3: a settled record does not say which transfer charged it.",
        "tests/billing/test_settle.py::test_settling_closes_holds_charges_records_and_posts_one_transfer",
        (Edit(SQL, "SET settled_at = now(), transfer_id = (SELECT id FROM posted)", "SET settled_at = now()"),),
    ),
    Mutant(
        "settle-day",
        "P3: a transfer charges calls of two days.",
        "tests/billing/test_settle.py::test_a_batch_never_spans_midnight_utc",
        (Edit(SQL, "least((first.day + 1)::timestamp AT TIME ZONE 'UTC', (", "least('infinity'::timestamptz, ("),),
    ),
    Mutant(
        "settle-expiry",
        "A lot pays for calls that were admitted after its expiry.",
        "tests/billing/test_settle.py::test_a_batch_never_crosses_the_expiry_of_a_lot_and_the_lot_pays_only_what_came_before",
        (
            Edit(
                SQL,
                "SELECT min(expires_at) FROM billing_creditlot",
                "SELECT min(expires_at) FILTER (WHERE false) FROM billing_creditlot",
            ),
        ),
    ),
    Mutant(
        "lots-order",
        "Paid money is burned before promotional credit that will expire.",
        "tests/billing/test_settle.py::test_lots_burn_promotional_first_soonest_expiry_first_then_oldest",
        (Edit(SQL, '"kind DESC, expires_at ASC NULLS LAST, id"', '"id"'),),
    ),
    Mutant(
        "settle-held",
        "P2: a settled call keeps what was held for it.",
        "tests/billing/test_settle.py::test_settling_closes_holds_charges_records_and_posts_one_transfer",
        (Edit(SQL, "           held = wallet.held - part.held,\n", ""),),
    ),
    Mutant(
        "settle-debt",
        "P4: usage that no lot covers is owed by nobody.",
        "tests/billing/test_settle.py::test_what_no_lot_covers_becomes_debt_and_a_later_credit_pays_it_first",
        (Edit(SQL, "           debt = debt + total.amount - part.burned,\n", ""),),
    ),
    Mutant(
        "settle-seq",
        "P1: free calls leave gaps in wallet_seq.",
        "tests/billing/test_settle.py::test_free_calls_are_settled_without_a_transfer",
        (Edit(SQL, "seq = seq + (total.amount > 0)::int", "seq = seq + 1"),),
    ),
    Mutant(
        "roll-up",
        "P8: a later batch of an hour replaces the earlier ones in its roll-up.",
        "tests/billing/test_settle.py::test_roll_ups_add_up_by_key_model_and_utc_hour",
        (Edit(SQL, "SET calls = total.calls + excluded.calls", "SET calls = excluded.calls"),),
    ),
)

MOVED = (
    Mutant(
        "credit-lock",
        "A credit and a settlement work on one wallet at the same time.",
        "tests/billing/test_settle_races.py::test_whoever_moves_a_balance_waits_for_the_lock_of_the_wallet[credit]",
        (
            Edit(
                PYTHON,
                "        cursor.execute(sql.LOCK_WALLET, [account_id])\n        cursor.execute(sql.OPEN_WALLET",
                "        cursor.execute(sql.OPEN_WALLET",
            ),
        ),
    ),
    Mutant(
        "debit-guard",
        "A debit takes money that open holds cover.",
        "tests/billing/test_ledger.py::test_a_debit_takes_all_that_is_free_and_not_a_pico_of_what_holds_cover",
        (Edit(PYTHON, ', posted__gte=F("held") + amount)', ")"),),
    ),
    Mutant(
        "expiry-covered",
        "Credit expires that a call admitted in its time still needs.",
        "tests/billing/test_ledger.py::test_a_call_admitted_in_time_is_paid_by_the_promotion_whether_it_is_settled_before_or_after_expiry",
        (Edit(PYTHON, 'lot.remaining - int(covered["amount"])', "lot.remaining"),),
    ),
)

_REFUNDS = "tests/billing/test_refund_holds.py::"
PAID_BACK = (
    Mutant(
        "refund-guard",
        "A refund takes money that open holds cover.",
        f"{_REFUNDS}test_a_refund_takes_all_paid_money_that_is_free_and_not_a_pico_more",
        (Edit(PYTHON, ', posted__gte=F("held") + amount + _expired(wallet, now))', ")"),),
    ),
    Mutant(
        "refund-paid",
        "Promotional credit goes to a card.",
        f"{_REFUNDS}test_promotional_credit_is_never_refunded",
        (Edit(PYTHON, "        if amount > _unspent_paid(wallet):\n", "        if False:\n"),),
    ),
    Mutant(
        "refund-held-for-ever",
        "P2: a refund is posted, and what was held for it stays held.",
        f"{_REFUNDS}test_a_refund_is_posted_once_and_its_hold_is_gone",
        (Edit(PYTHON, 'held=F("held") - held, debt', "debt"),),
    ),
    Mutant(
        "refund-posted-twice",
        "What went back to a card once is taken from the wallet again.",
        f"{_REFUNDS}test_a_refund_is_posted_once_and_its_hold_is_gone",
        (
            Edit(
                PYTHON,
                'update(held=F("held") - held)\n            return done\n',
                'update(held=F("held") - held)\n            cause += " again"\n',
            ),
        ),
    ),
)

LEDGER = (*REFUSED, *RESERVED, *CAPPED, *SETTLED, *MOVED, *PAID_BACK)
