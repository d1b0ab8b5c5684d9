"""How pages show durations, and how a call ended."""

from __future__ import annotations

from django import template

from billing.models import UsageRecord

Outcome = UsageRecord.Outcome
UNKNOWN = "\N{EN DASH}"
# For the narrow column of a table; the page of the call tells it in full.
OUTCOMES = {
    Outcome.COMPLETED: "Completed",
    Outcome.CLIENT_CLOSED: "You hung up",
    Outcome.BACKEND_FAILED: "Model failed",
    Outcome.SERVER_STOPPED: "Stopped by us",
    Outcome.KEY_DISABLED: "Key disabled",
    Outcome.UNRESOLVED: "Unresolved",
    Outcome.SWEPT: "Cut off by us",
}

register = template.Library()


@register.filter
def duration(milliseconds: int | None) -> str:
    """`840 ms`, `2.4 s`; a dash where nothing was measured."""
    if milliseconds is None:
        return UNKNOWN
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,.1f} s"


@register.filter
def ended(outcome: str) -> str:
    """How the call ended, in two or three words for the customer."""
    return OUTCOMES.get(Outcome(outcome), outcome)
