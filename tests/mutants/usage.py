"""Mutants of usage: what a call costs, its one record (P5), and the holds of dead processes."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

RECORDS = "billing/usage.py"
HOLDS = "billing/holds.py"
PRICING = "billing/pricing.py"
PARTITIONS = "billing/migrations/0002_partition_usage.py"

RECORDED = (
    Mutant(
        "usage-key",
        "A call can have two records, and is charged for each.",
        "tests/billing/test_usage.py::TestRecord::test_a_repeat_of_ours_is_dropped",
        (
            Edit(PARTITIONS, "ADD CONSTRAINT billing_usagerecord_pkey PRIMARY KEY (id);", "ALTER id SET NOT NULL;"),
            Edit(RECORDS, "    ON CONFLICT (id) DO NOTHING\nRETURNING id", "    ON CONFLICT DO NOTHING\nRETURNING id"),
        ),
    ),
    Mutant(
        "record-conflict",
        "A record that is written again is an error, and takes its batch with it.",
        "tests/billing/test_usage.py::TestRecord::test_a_repeat_of_ours_is_dropped",
        (Edit(RECORDS, "    ON CONFLICT (id) DO NOTHING\nRETURNING id", "RETURNING id"),),
    ),
    Mutant(
        "late-record",
        "What a process knows of a call that the sweeper has closed is thrown away.",
        "tests/billing/test_usage.py::TestRecord::test_a_record_after_the_sweepers_is_kept_late_and_moves_no_money",
        (Edit(RECORDS, "if len(stored) < len(records):", "if False:"),),
    ),
)

PRICED = (
    Mutant(
        "clamp",
        "A call is charged more than was held for it.",
        "tests/billing/test_usage.py::test_a_charge_is_never_more_than_was_held",
        (Edit(RECORDS, "return min(charge, held), charge > held", "return charge, charge > held"),),
    ),
    Mutant(
        "cached-price",
        "Cached tokens cost the price of others.",
        "tests/billing/test_pricing.py::test_a_charge_is_the_exact_sum_of_its_parts",
        (Edit(PRICING, "usage.cached_input_tokens * rates.cached_input", "usage.cached_input_tokens * rates.input"),),
    ),
    Mutant(
        "price-band",
        "A long prompt costs the price of a short one.",
        "tests/billing/test_pricing.py::test_the_band_of_the_prompt_prices_the_whole_call",
        (Edit(PRICING, "for band in reversed(self.bands)", "for band in self.bands"),),
    ),
    Mutant(
        "ceiling-band",
        "What is held for a long prompt is less than it can cost.",
        "tests/billing/test_pricing.py::test_no_usage_within_the_bounds_costs_more_than_the_ceiling",
        (Edit(PRICING, "            for band in self.bands\n", "            for band in self.bands[:1]\n"),),
    ),
)

SWEPT = (
    Mutant(
        "sweep-charges-unresolved",
        "A call of which nothing is known is charged.",
        "tests/billing/test_holds.py::test_a_call_without_a_checkpoint_is_unresolved_and_free",
        (Edit(HOLDS, "if known else (0, False)", "if known else (hold.amount, False)"),),
    ),
    Mutant(
        "sweep-one-look",
        "A process is dead at the first look that finds it silent.",
        "tests/billing/test_holds.py::test_a_process_is_dead_only_after_two_sweeps_that_lie_far_enough_apart",
        (Edit(HOLDS, "DEAD_AFTER = timedelta(seconds=15)", "DEAD_AFTER = timedelta(seconds=0)"),),
    ),
    Mutant(
        "sweep-blind",
        "Every process is dead after an outage of the database.",
        "tests/billing/test_holds.py::test_nobody_is_dead_while_the_sweeper_itself_could_not_look",
        (Edit(HOLDS, " | Q(swept_at__lt=Now() - DEAD_AFTER)\n", "\n"),),
    ),
    Mutant(
        "sweep-recorded",
        "The sweeper closes a call that has its record.",
        "tests/billing/test_holds.py::test_a_hold_with_a_record_is_left_to_settlement",
        (Edit(HOLDS, "over, ~Q(recorded), resolved_at=None", "over, resolved_at=None"),),
    ),
    Mutant(
        "forgotten-asks-once",
        "A call that begins while the heartbeat asks loses its hold.",
        "tests/billing/test_forgotten.py::test_a_call_that_begins_while_the_answer_is_on_its_way_is_not_forgotten",
        (Edit(HOLDS, "for call_id in found if call_id not in known()]", "for call_id in found]"),),
    ),
)

USAGE = (*RECORDED, *PRICED, *SWEPT)
