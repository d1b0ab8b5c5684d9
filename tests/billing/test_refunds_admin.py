"""Staff give money back: they see how much can go and why not more, are told what came of it, and click once."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import Permission
from django.http import HttpResponseBase
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from accounts.models import Membership, User
from billing import clock, closing
from billing.models import AccountClosing, Payment, Refund
from tests import factories, people
from tests.accounts import browsing
from tests.billing import stage
from tests.billing.fake_stripe import FakeStripe
from tests.billing.test_refunds import CENT, again, held, intent_of, paid, paid_left, spend, start

pytestmark = pytest.mark.django_db


def page_of(payment: Payment) -> str:
    return reverse("admin:billing_payment_refund", args=[payment.pk])


def text(answer: HttpResponseBase) -> str:
    return " ".join(strip_tags(answer.content.decode()).split())  # type: ignore[attr-defined]


def fields(client: Client, address: str, **given: str) -> dict[str, Any]:
    """The form as it is shown, filled in."""
    shown = client.get(address).context["form"]
    return {**{field.name: field.value() or "" for field in shown}, "reason": "They asked", "sure": "on", **given}


def member_of_staff(*permissions: str) -> Client:
    user = User.objects.create_user(f"{factories.unique('staff')}@example.test", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return people.signed_in(user)


def test_a_payment_leads_to_its_refund_which_says_how_much_and_why_not_more(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe, 2500, tax=475), people.superuser()
    spend(payment, 400)
    start(payment, 1190)

    assert page_of(payment) in staff.get(f"/admin/billing/payment/{payment.pk}/change/").content.decode()
    page = text(staff.get(page_of(payment)))

    assert "$13.09 can be refunded now" in page
    assert "$11.90 was refunded already" in page
    assert "$4.76 is spent" in page
    assert "is held" not in page


def test_staff_hear_that_the_card_may_be_charged_again_at_once(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe, 2500), people.superuser()
    assert "Auto-recharge is on" not in text(staff.get(page_of(payment)))

    factories.auto_recharge(payment.account, threshold_cents=1000)

    assert "Auto-recharge is on: when less than $10.00 is left, $5.00 is charged" in text(staff.get(page_of(payment)))


def test_the_whole_is_offered_and_a_second_click_does_nothing_twice(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe, 2500), people.superuser()
    form = fields(staff, page_of(payment))
    assert form["amount"] == "25.00"

    for _ in range(2):
        answer = staff.post(page_of(payment), {**form, "amount": "10"}, follow=True)
        assert "$10.00 is on its way to the card" in text(answer)

    assert (paid_left(payment), Refund.objects.get(payment=payment).reason) == (1500, "They asked")
    page = text(staff.get("/admin/billing/refund/"))
    assert "succeeded" in page.lower()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"amount": "25.01"}, "Between $0.01 and $25.00 can be refunded now."),
        ({"amount": "0"}, "greater than or equal to 0.01"),
        ({"amount": "1.001"}, "no more than 2 decimal places"),
        ({"reason": " "}, "This field is required."),
        ({"sure": ""}, "This field is required."),
    ],
)
def test_what_cannot_be_is_said_and_moves_nothing(stripe: FakeStripe, given: dict[str, str], words: str) -> None:
    payment, staff = paid(stripe), people.superuser()
    answer = staff.post(page_of(payment), fields(staff, page_of(payment), **given))
    assert words in text(answer)
    assert not Refund.objects.filter(payment=payment).exists()


def test_a_refusal_and_a_silence_of_stripe_are_told_in_words(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe), people.superuser()
    stripe.objects[intent_of(payment)]["amount_received"] = 0
    answer = staff.post(page_of(payment), fields(staff, page_of(payment)), follow=True)
    assert "Stripe refused to refund $25.00 (charge_already_refunded)" in text(answer)

    stripe.objects[intent_of(payment)]["amount_received"] = 2500
    stripe.failing_with = 500
    answer = staff.post(page_of(payment), fields(staff, page_of(payment)), follow=True)
    assert "Stripe has not answered. $25.00 is held" in text(answer)
    assert "is being refunded" in text(staff.get(page_of(payment)))

    stripe.failing_with = None
    refund = Refund.objects.get(payment=payment, state="held")
    answer = staff.post(
        "/admin/billing/refund/", {"action": "work_again", "_selected_action": [refund.pk]}, follow=True
    )
    assert "$25.00 is on its way to the card" in text(answer)
    assert (paid_left(payment), held(payment)) == (0, 0)


def test_a_refund_is_found_by_every_id_it_has_and_cannot_be_changed(stripe: FakeStripe) -> None:
    payment, other, staff = paid(stripe), paid(stripe), people.superuser()
    refund, another = start(payment, 100), start(other, 200)
    for term in (refund.stripe_id, intent_of(payment), refund.pk, payment.pk, payment.account.users.get().email):
        found = staff.get("/admin/billing/refund/", {"q": str(term)}).content.decode()
        assert str(refund.pk) in found
        assert str(another.pk) not in found
    assert staff.post(f"/admin/billing/refund/{refund.pk}/change/", {"state": "failed"}).status_code == 403


def test_who_may_look_may_not_refund(stripe: FakeStripe) -> None:
    payment = paid(stripe)
    looker = member_of_staff("view_payment", "view_refund")
    refunder = member_of_staff("view_payment", "view_refund", "add_refund")
    change = f"/admin/billing/payment/{payment.pk}/change/"

    assert page_of(payment) not in looker.get(change).content.decode()
    assert page_of(payment) in refunder.get(change).content.decode()
    for method in ("get", "post"):
        assert getattr(looker, method)(page_of(payment)).status_code == 403
    assert refunder.get(page_of(payment)).status_code == 200
    assert "work_again" not in refunder.get("/admin/billing/refund/").content.decode()


def test_refunding_asks_who_it_is_again_before_the_form_is_shown(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe), browsing.with_password(User.objects.create_superuser("staff@example.test"))

    asked = staff.get(page_of(payment))

    assert asked["Location"].startswith("/accounts/reauthenticate/")
    assert "$25.00 can be refunded now" in text(browsing.go_on(staff, asked))


def test_a_refund_whose_proof_ran_out_while_it_was_typed_goes_on_after_a_new_one(stripe: FakeStripe) -> None:
    payment, user = paid(stripe), User.objects.create_superuser("staff@example.test")
    form = fields(people.signed_in(user), page_of(payment), amount="10")
    staff = browsing.with_password(user)

    asked = staff.post(page_of(payment), form)
    assert not Refund.objects.filter(payment=payment).exists()
    answer = browsing.go_on(staff, asked)

    assert "$10.00 is on its way to the card" in text(answer)
    assert paid_left(payment) == 1500


def test_a_refund_that_was_given_up_at_the_proof_is_not_made_by_opening_the_page_again(stripe: FakeStripe) -> None:
    payment, user = paid(stripe), User.objects.create_superuser("staff@example.test")
    form = fields(people.signed_in(user), page_of(payment), amount="10")
    staff = browsing.with_password(user)
    staff.post(page_of(payment), form)

    answer = browsing.go_on(staff, staff.get(page_of(payment)))

    assert "$25.00 can be refunded now" in text(answer)
    assert not Refund.objects.exists()


def test_a_form_with_a_fault_that_is_shown_after_the_proof_is_sent_to_its_own_page(stripe: FakeStripe) -> None:
    payment, user = paid(stripe), User.objects.create_superuser("staff@example.test")
    form = fields(people.signed_in(user), page_of(payment), amount="99")
    staff = browsing.with_password(user)

    answer = browsing.go_on(staff, staff.post(page_of(payment), form))

    assert "Between $0.01 and $25.00 can be refunded now." in text(answer)
    assert f'<form method="post" action="{page_of(payment)}">' in answer.content.decode()


def test_staff_who_sign_in_with_a_passkey_prove_it_with_that(stripe: FakeStripe) -> None:
    payment, user = paid(stripe), User.objects.create_superuser("staff@example.test")
    Authenticator.objects.create(user=user, type=Authenticator.Type.WEBAUTHN, data={"credential": {}})
    asked = people.signed_in(user).get(page_of(payment))
    assert asked["Location"] == f"/accounts/2fa/webauthn/reauthenticate/?next={quote(page_of(payment), safe='')}"


def test_refunding_what_is_left_of_an_account_asks_who_it_is_again(stripe: FakeStripe) -> None:
    gone = closed(paid(stripe))
    page = reverse("admin:billing_accountclosing_refund", args=[gone.pk])
    staff = browsing.with_password(User.objects.create_superuser("staff@example.test"))

    asked = staff.get(page)

    assert asked["Location"].startswith("/accounts/reauthenticate/")
    assert "$25.00 can be refunded" in text(browsing.go_on(staff, asked))


def closed(payment: Payment) -> AccountClosing:
    by = Membership.objects.get(account=payment.account)
    closing.ask(account=payment.account, by=by, now=clock.now())
    AccountClosing.objects.filter(account=payment.account).update(requested_at=clock.now() - closing.QUIET)
    closing.finish_all(now=clock.now())
    return AccountClosing.objects.get(account=payment.account)


@pytest.mark.usefixtures("at_rest")
def test_what_a_closed_account_has_left_is_refunded_and_ends_its_closing(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe, 2500), people.superuser()
    again(stripe, payment, 1000, tax=190)
    spend(payment, 2000)
    factories.credit(payment.account, 3 * CENT + 5)  # Of an operator: no payment gave it.
    gone = closed(payment)
    page = reverse("admin:billing_accountclosing_refund", args=[gone.pk])
    assert page in staff.get(f"/admin/billing/accountclosing/{gone.pk}/change/").content.decode()

    shown = text(staff.get(page))
    assert "$16.93 can be refunded" in shown
    answer = staff.post(page, fields(staff, page), follow=True)

    assert "$11.90 is on its way to the card" in text(answer)
    assert "$5.03 is on its way to the card" in text(answer)
    assert closing.finish_all(now=clock.now()) == 1
    gone.refresh_from_db()
    assert (gone.state, stage.wallet_of(payment.account).posted) == ("closed", 0)
    stage.assert_books_hold()


def test_what_of_a_closed_account_cannot_be_refunded_is_said(stripe: FakeStripe) -> None:
    payment, staff = paid(stripe, 500), people.superuser()
    start(payment, 400)
    factories.credit(payment.account, 700 * CENT)
    factories.promotion(payment.account, 300 * CENT, expires_at=None)
    gone = AccountClosing.objects.create(
        account=payment.account, state="money_left", requested_by=payment.account.users.get()
    )
    page = reverse("admin:billing_accountclosing_refund", args=[gone.pk])

    shown = text(staff.get(page))

    assert "$1.00 can be refunded" in shown
    assert "$3.00 is promotional credit" in shown
    assert "$7.00 was paid in another way" in shown
    assert member_of_staff("view_accountclosing").get(page).status_code == 403
