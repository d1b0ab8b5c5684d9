"""Twenty who tell of one payment at the same time, each on its own road: it is credited once.

The site, a worker and the simulator are processes; messages and return pages come over HTTP, and sweeps and reconcilers
look for what was missed. The simulator tells the webhook of it as well.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Barrier
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import stripe as stripe_package
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import QuerySet
from pytest_django import Settings

from accounts.models import AuditEvent
from billing import clock
from billing.models import DocumentMail, Payment, Receipt, StripeEvent
from billing.payments import fulfilment, reconcile, topups
from tests import people
from tests.billing.stage import assert_books_hold
from tests.billing.test_fulfilment import USD, posted, session_of
from tests.stack import WebProcess, until, worker
from tests.stripe_simulator.process import StripeSimulator

SECRET = "whsec_of_the_deliveries_0123456789"
ROUNDS = 3


@pytest.fixture
def simulator(tmp_path: Path, settings: Settings) -> Iterator[StripeSimulator]:
    simulator = StripeSimulator(tmp_path / "stripe.sqlite3", secret=SECRET)
    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = simulator.key, simulator.url
    yield simulator
    simulator.stop()


@pytest.fixture
def site(simulator: StripeSimulator, committed: None, tmp_path: Path) -> Iterator[str]:
    environment = {
        "STRIPE_SECRET_KEY": simulator.key,
        "STRIPE_API_BASE": simulator.url,
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        # Rings for nobody but this site.
        "CELERY_BROKER_URL": urlsplit(django_settings.CELERY_BROKER_URL)._replace(path="/8").geturl(),
    }
    web = WebProcess(tmp_path / "web.log", **environment)
    try:
        with worker(tmp_path / "worker.log", **environment):
            web.wait_until_ready()
            simulator.control("webhook", url=f"{web.url}/webhooks/stripe/", secret=SECRET)
            yield web.url
    finally:
        web.stop()


def asked(site: str, method: str, path: str, body: str = "", **headers: str) -> int:
    site_connection = http.client.HTTPConnection(urlsplit(site).netloc, timeout=60)
    site_connection.request(method, path, body=body.encode(), headers=headers)
    answer = site_connection.getresponse()
    answer.read()
    site_connection.close()
    return answer.status


def messages(simulator: StripeSimulator, payment: Payment) -> list[str]:
    """All that Stripe has to tell of the payment, as it would be posted."""
    query, key = "/v1/events?limit=100", f"Bearer {simulator.key}"
    found = json.loads(simulator.ask("GET", query, Authorization=key)[1])["data"]
    about = [event for event in found if str(payment.pk) in json.dumps(event)]
    return [json.dumps(event) for event in about if event["type"] != "customer.created"]


def at_once(works: list[Callable[[], object]]) -> list[object]:
    start = Barrier(len(works))

    def one(work: Callable[[], object]) -> object:
        try:
            start.wait(30)
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(one, works))


def webhook(site: str, body: str) -> int:
    header = stripe_package.WebhookSignature.generate_signature_header(body, SECRET)
    return asked(site, "POST", "/webhooks/stripe/", body, **{"Stripe-Signature": header})


def sweep() -> None:
    fulfilment.sweep(now=clock.now() + timedelta(minutes=6))


def reconciler() -> None:
    with suppress(reconcile.Busy):  # One at a time; the others leave it to it.
        reconcile.run(now=clock.now(), tell=lambda _line: None)


def _is_done(waiting: QuerySet[StripeEvent]) -> bool:
    return not waiting.exists()


@pytest.mark.timeout(240)
def test_twenty_deliveries_on_four_roads_credit_once(simulator: StripeSimulator, site: str) -> None:
    account, _email = people.customer("payer")
    cookie = people.owner_of(account).cookies[django_settings.SESSION_COOKIE_NAME].value
    for _ in range(ROUNDS):
        payment = topups.open_payment(
            form=uuid4(), account=account, amount_cents=2500, save_card=True, by=account.users.get(), now=clock.now()
        )
        topups.checkout_url(payment, return_url=f"{site}/back")
        payment.refresh_from_db()
        simulator.pays(session_of(payment))
        bodies = messages(simulator, payment)
        assert len(bodies) >= 3

        path = f"/billing/funds/{payment.pk}/"
        return_page = partial(asked, site, "GET", path, Cookie=f"{django_settings.SESSION_COOKIE_NAME}={cookie}")
        roads: list[Callable[[], object]] = [
            *[partial(webhook, site, body) for body in (bodies * 8)[:8]],
            *[return_page] * 6,
            *[sweep] * 3,
            *[reconciler] * 3,
        ]
        answers = at_once(roads)
        assert answers[:14] == [200] * 14

        told = [json.loads(body)["id"] for body in bodies]
        waiting = StripeEvent.objects.filter(pk__in=told, processed_at=None)
        until(partial(_is_done, waiting), 30)
        payment.refresh_from_db()
        assert (payment.state, payment.error) == (Payment.State.PAID, "")
        assert Receipt.objects.filter(payment=payment).count() == 1

    assert posted(payment) == ROUNDS * 25 * USD
    assert DocumentMail.objects.filter(account=account).count() == ROUNDS
    assert AuditEvent.objects.filter(account=account, action="billing.funds_added").count() == ROUNDS
    assert len(json.loads(simulator.ask("GET", "/control/state")[1])["customer"]) == 1
    assert_books_hold()
