"""Adding funds as a customer does it: in a browser, on the simulator's Checkout page, with messages and a worker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from kombu import Connection
from playwright.sync_api import Locator, Page, expect

from billing import clock
from billing.models import AutoRecharge, StripeCustomer, StripeEvent
from billing.tasks import sweep_recharges
from tests import people
from tests.billing.stage import assert_books_hold
from tests.browser.conftest import NewPage
from tests.stack import WebProcess, until, worker
from tests.stripe_simulator.process import StripeSimulator

SECRET = "whsec_of_the_browser_tests"
BROKER = urlsplit(settings.CELERY_BROKER_URL)._replace(path="/9").geturl()
SIMULATED = re.compile("simulated", re.IGNORECASE)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeSimulator]:
    simulator = StripeSimulator(tmp_path_factory.mktemp("stripe") / "stripe.sqlite3", secret=SECRET)
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def site(simulator: StripeSimulator, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site and a worker that know this Stripe, and ring for each other only."""
    environment = {
        "STRIPE_SECRET_KEY": simulator.key,
        "STRIPE_API_BASE": simulator.url,
        "STRIPE_WEBHOOK_SECRETS": SECRET,
        "CELERY_BROKER_URL": BROKER,
    }
    logs = tmp_path_factory.mktemp("paying")
    web = WebProcess(logs / "web.log", **environment)
    try:
        with worker(logs / "worker.log", **environment):
            web.wait_until_ready()
            simulator.control("webhook", url=f"{web.url}/webhooks/stripe/", secret=SECRET)
            yield web.url
    finally:
        web.stop()


@pytest.fixture
def customer(new_page: NewPage, site: str) -> Page:
    """Somebody who is signed in and about to add funds."""
    _account, email = people.customer("payer", password=people.PASSWORD)
    page = new_page()
    page.goto(f"{site}/accounts/login/?next=/billing/funds/")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(people.PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Add funds")).to_be_visible()
    return page


def balance(page: Page) -> int:
    """In cents, as the head of the page has it."""
    shown = page.get_by_title("Available to spend").inner_text()
    return int(shown.replace("$", "").replace(",", "").replace(".", ""))


def to_checkout(page: Page, amount: str = "$25.00") -> None:
    page.get_by_label(amount).check()
    page.get_by_role("button", name="Continue to payment").click()
    expect(page.get_by_role("heading", name="Checkout")).to_be_visible()
    expect(page.get_by_role("note")).to_contain_text(SIMULATED)


def rows(page: Page) -> Locator:
    """The payments as the billing page lists them, the newest first."""
    page.get_by_role("link", name="Billing", exact=True).first.click()
    return page.get_by_role("region", name="Payments").locator("tbody tr")


def assert_paid(page: Page, before: int, cents: int = 2500) -> None:
    expect(page.get_by_text(f"${cents // 100}.00 was added to your balance")).to_be_visible()
    assert balance(page) == before + cents
    page.get_by_role("link", name="Receipt", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile(r"Receipt SIMULATED-\d{4}-\d{6}"))).to_be_visible()
    expect(page.get_by_text("Simulated, no real money", exact=True)).to_be_visible()
    expect(page.get_by_role("definition").filter(has_text=f"${cents // 100}.00").last).to_be_visible()


def test_a_payment_is_there_at_once_with_its_receipt(customer: Page) -> None:
    before = balance(customer)
    to_checkout(customer)
    customer.get_by_role("button", name="Pay $25.00").click()
    assert_paid(customer, before)
    customer.get_by_role("link", name="Stripe's receipt").click()
    expect(customer.get_by_text("$25.00")).to_be_visible()


def test_a_declined_card_can_be_followed_by_another(customer: Page) -> None:
    before = balance(customer)
    to_checkout(customer)
    customer.get_by_label("The bank says").select_option("insufficient_funds")
    customer.get_by_role("button", name="Decline the card").click()
    expect(customer.get_by_role("alert")).to_be_visible()
    customer.get_by_role("button", name="Pay $25.00").click()
    assert_paid(customer, before)


def test_a_bank_that_asks_who_it_is_may_say_no_and_then_yes(customer: Page) -> None:
    before = balance(customer)
    to_checkout(customer)
    customer.get_by_role("button", name="3-D Secure").click()
    customer.get_by_role("button", name="Fail the check").click()
    expect(customer.get_by_role("alert")).to_be_visible()

    customer.get_by_role("button", name="Go back without paying").click()
    expect(customer.get_by_text("The last card was declined; another one may work.")).to_be_visible()
    assert balance(customer) == before
    customer.get_by_role("button", name="Continue to payment").click()
    customer.get_by_role("button", name="3-D Secure").click()
    customer.get_by_role("button", name="Yes, it is me").click()
    assert_paid(customer, before)


def test_a_payment_that_takes_its_time_is_listed_and_then_credited_by_itself(
    customer: Page, simulator: StripeSimulator
) -> None:
    before = balance(customer)
    to_checkout(customer, "$100.00")
    customer.get_by_role("button", name="Pay later").click()
    expect(customer.get_by_text("Your bank is still working on it. $100.00 will be added")).to_be_visible()
    assert balance(customer) == before
    address = customer.url
    expect(rows(customer).first).to_contain_text("Processing")

    customer.goto(address)
    control = customer.context.new_page()
    control.goto(f"{simulator.url}/control/")
    control.get_by_role("button", name="Succeeds").click()
    expect(customer.get_by_text("$100.00 was added to your balance")).to_be_visible()  # It noticed by itself.
    expect(rows(customer).first).to_contain_text("Paid")
    assert balance(customer) == before + 10_000


def test_a_payment_that_the_bank_refuses_days_later_says_so(customer: Page, simulator: StripeSimulator) -> None:
    before = balance(customer)
    to_checkout(customer)
    customer.get_by_role("button", name="Pay later").click()
    expect(customer.get_by_text("Your bank is still working on it")).to_be_visible()
    control = customer.context.new_page()
    control.goto(f"{simulator.url}/control/")
    control.get_by_role("button", name="Fails").click()
    expect(customer.get_by_text("This payment failed, and nothing was charged")).to_be_visible()
    expect(rows(customer).first).to_contain_text("Failed")
    assert balance(customer) == before


def test_who_abandons_a_payment_is_charged_nothing_and_may_go_on_later(customer: Page) -> None:
    before = balance(customer)
    to_checkout(customer, "$10.00")
    customer.get_by_role("button", name="Go back without paying").click()
    expect(customer.get_by_text("This payment is not made yet, and nothing was charged.")).to_be_visible()
    expect(rows(customer).first).to_contain_text("Not finished")
    customer.get_by_role("link", name="Add funds").click()
    customer.get_by_role("region", name="Payments under way").get_by_role("link", name="$10.00").click()
    assert balance(customer) == before
    customer.get_by_role("button", name="Continue to payment").click()
    customer.get_by_role("button", name="Pay $10.00").click()
    assert_paid(customer, before, 1000)


def test_every_message_about_all_this_was_worked_on_without_a_fault(
    committed: None, site: str, simulator: StripeSimulator
) -> None:
    told = [event.id for event in simulator.client().v1.events.list({"limit": 100}).data]
    rows = StripeEvent.objects.filter(pk__in=told)
    until(lambda: rows.count() == len(told) and not rows.filter(processed_at=None).exists(), 20)
    assert len(told) > 20
    assert not rows.exclude(error="").exists()
    assert_books_hold()


def test_a_saved_card_is_charged_by_itself_until_it_declines(customer: Page, simulator: StripeSimulator) -> None:
    customer.get_by_label("Save the card").check()
    to_checkout(customer)
    customer.get_by_role("button", name="Pay $25.00").click()
    expect(customer.get_by_text("was added to your balance")).to_be_visible()
    before = balance(customer)
    turn_on(customer, below="1000")

    expect(customer.get_by_text("Visa ending in 4242")).to_be_visible()
    ring_until(customer, "Paid")
    assert attempts(customer) == ["Paid"]
    assert balance(customer) == before + 2000

    saved = StripeCustomer.objects.exclude(payment_method="").latest("consented_at")
    simulator.control("card", payment_method=saved.payment_method, behaviour="expired_card")
    AutoRecharge.objects.filter(account=saved.account).update(not_before=clock.now())
    ring_until(customer, "It has stopped: the bank declines this card for good.")
    assert attempts(customer) == ["Failed", "Paid"]
    customer.get_by_role("link", name="Overview").first.click()
    expect(customer.get_by_text("Auto-recharge has stopped")).to_be_visible()
    customer.get_by_role("link", name="See what happened").click()
    customer.get_by_role("button", name="Leave it off").click()
    expect(customer.get_by_text("It is off.")).to_be_visible()


def turn_on(page: Page, *, below: str) -> None:
    page.goto(page.url.partition("/billing/")[0] + "/billing/funds/")
    page.get_by_role("link", name="Auto-recharge").click()
    expect(page.get_by_text("It is off.")).to_be_visible()
    page.get_by_label("When less than this can be spent").fill(below)
    page.get_by_label("Charge and add").fill("20")
    page.get_by_label("I agree").check()
    page.get_by_role("button", name="Turn on auto-recharge").click()
    expect(page.get_by_text("Auto-recharge is on.")).to_be_visible()


def ring_until(page: Page, said: str) -> None:
    """Have the worker do what a sweep rings for, as there is no clock here, until the page says so."""

    def is_said() -> bool:
        page.reload()
        return said in page.get_by_role("main").inner_text()

    with Connection(BROKER) as connection:
        sweep_recharges.apply_async(connection=connection)  # type: ignore[call-arg]
    until(is_said, 20)


def attempts(page: Page) -> list[str]:
    return page.get_by_role("region", name="The last attempts").locator("tbody .tag").all_inner_texts()
