"""The short form of `make chaos`: faults of every part under load, with a fixed seed, and a verdict on each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import seeds

PATIENCE_SECONDS = 480  # It takes 90 s on two cores that have nothing else to do.


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
def test_under_faults_nothing_is_lost_charged_twice_or_overdrawn() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--short", "--seed", str(seeds.CHAOS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            table, _ = running.communicate(timeout=PATIENCE_SECONDS)
        finally:
            running.terminate()  # It ends its processes; killed it could not.
    sys.stdout.write(table)
    assert running.returncode == 0, table
