"""What the tests of billing share: a Stripe to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from tests.billing.fake_stripe import FakeStripe

WEBHOOK_SECRET = "whsec_of_the_tests_0123456789"


@pytest.fixture
def stripe(settings: Settings) -> Iterator[FakeStripe]:
    with FakeStripe().serving() as fake:
        settings.STRIPE_SECRET_KEY = "sk_sim_tests"
        settings.STRIPE_API_BASE = fake.url
        settings.STRIPE_WEBHOOK_SECRETS = ["whsec_an_older_one_0123456789", WEBHOOK_SECRET]
        yield fake
