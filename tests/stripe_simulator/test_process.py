"""Where the simulator refuses to start: it must never stand in for Stripe where money is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATED = {"STRIPE_SECRET_KEY": "sk_sim_of_the_tests", "STRIPE_WEBHOOK_SECRETS": "whsec_of_the_tests"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({**SIMULATED, "FLINT_ENV": "production"}, "FLINT_ENV is production"),
        ({**SIMULATED, "STRIPE_SECRET_KEY": "sk_live_of_somebody"}, "not a key of the simulator"),
        ({**SIMULATED, "STRIPE_SECRET_KEY": ""}, "not a key of the simulator"),
        ({**SIMULATED, "STRIPE_WEBHOOK_SECRETS": ""}, "events must be signed"),
    ],
)
def test_it_refuses_to_start(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "flint.sandbox.stripe_simulator", "--port", "0", "--webhook-url", "http://x/"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "stripe.sqlite3")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "sk_live" not in done.stderr
    assert not (tmp_path / "stripe.sqlite3").exists()
