"""The seeds of what is random in the tests. They stand at the head of every run, so that a failure can be repeated."""

from __future__ import annotations

import os

CHAOS = 20_261_123
SETTLE_ORDER = 1
WALLET_MODEL = int(os.environ.get("WALLET_MODEL_SEED", "1"))
LIMITS = int(os.environ.get("LIMITS_SEED", "1"))
LINE = f"seeds: chaos {CHAOS}, settle order {SETTLE_ORDER}, wallet model {WALLET_MODEL}, limits {LIMITS}"
