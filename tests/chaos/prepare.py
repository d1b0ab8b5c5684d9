"""Makes an empty database the product's: tables, models on sale, a backend, and accounts with keys and money.

    python -m tests.chaos.prepare --backend-url URL --casts 3      one JSON list of casts on stdout

It runs once, as a process of its own, so that the rest of this package knows the product only from outside.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # Models need Django to be set up.
from django.db import transaction  # noqa: E402

from accounts.models import Tier  # noqa: E402
from apikeys import keys  # noqa: E402
from apikeys.keys import SpendCap  # noqa: E402
from apikeys.models import SpendPeriod  # noqa: E402
from billing import catalogue  # noqa: E402
from billing.models import LanguageModel  # noqa: E402
from gateway import backends  # noqa: E402
from tests import factories  # noqa: E402
from tests.chaos.product import DEMO_BACKEND, UNSERVED_MODELS  # noqa: E402

RICH = 10 * 10**12  # Pico-USD.
POOR = 2 * 10**9  # Three of the poor's calls at a time, and about ninety of them in all.
NARROW_CALLS = 4  # At once.


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend-url", required=True)
    parser.add_argument("--casts", type=int, required=True)
    options = parser.parse_args()
    call_command("migrate", verbosity=0)
    catalogue.load(now=datetime.now(UTC))
    names = LanguageModel.objects.exclude(public_id__in=UNSERVED_MODELS).values_list("public_id", flat=True)
    backends.save(
        name=DEMO_BACKEND, base_url=options.backend_url, credential=None, models={name: name for name in names}
    )
    with transaction.atomic():
        casts = [_cast() for _ in range(options.casts)]
    sys.stdout.write(json.dumps(casts))


def _cast() -> dict[str, dict[str, Any]]:
    wide = Tier.objects.get(name="Enterprise")
    narrow, _ = Tier.objects.get_or_create(
        name="Narrow",
        defaults={
            "requests_per_minute": 1_000,
            "tokens_per_minute": 1_000_000,
            "concurrent_requests": NARROW_CALLS,
        },
    )
    return {
        "streams": _customer(wide, RICH),
        "questions": _customer(wide, RICH),
        "poor": _customer(wide, POOR),
        "narrow": _customer(narrow, RICH),
    }


def _customer(tier: Tier, pico: int) -> dict[str, Any]:
    account = factories.account(tier=tier)
    factories.credit(account, pico)
    # A cap that never refuses, since the wallet does before: every fault finds calls that are counted in a budget.
    cap = SpendCap(2 * pico, SpendPeriod.MONTH)
    _, secret = keys.create(account=account, name="a key", cap=cap, now=datetime.now(UTC))
    return {"account_id": account.pk, "secret": secret}


if __name__ == "__main__":
    main()
