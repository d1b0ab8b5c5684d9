"""What the tests of billing share: a Stripe to ask, and a database in which nothing waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from tests.billing import stage
from tests.billing.fake_stripe import FakeStripe
from tests.stripe_simulator.process import StripeSimulator

WEBHOOK_SECRET = "whsec_of_the_tests_0123456789"


@pytest.fixture
def stripe(settings: Settings) -> Iterator[FakeStripe]:
    with FakeStripe().serving() as fake:
        settings.STRIPE_SECRET_KEY = "sk_sim_tests"
        settings.STRIPE_API_BASE = fake.url
        settings.STRIPE_WEBHOOK_SECRETS = ["whsec_an_older_one_0123456789", WEBHOOK_SECRET]
        yield fake


@pytest.fixture(scope="module")
def simulator_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSimulator]:
    simulator = StripeSimulator(tmp_path_factory.mktemp("stripe") / "stripe.sqlite3")
    yield simulator
    simulator.stop()


@pytest.fixture
def simulator(simulator_of_module: StripeSimulator, settings: Settings) -> StripeSimulator:
    """The sandbox's own Stripe, a process, which is asked from now on. It sends no messages."""
    settings.STRIPE_SECRET_KEY = simulator_of_module.key
    settings.STRIPE_API_BASE = simulator_of_module.url
    settings.STRIPE_WEBHOOK_SECRETS = [WEBHOOK_SECRET]
    simulator_of_module.control("calls", kind="hang", count="0")  # What a test before this one has not used up.
    return simulator_of_module


@pytest.fixture
def at_rest(db: None) -> None:
    """Nothing waits that tests before this one left behind."""
    stage.bring_to_rest()
