"""Mails about a low balance: once for each crossing, whoever looks and however often, and again where a mail failed."""

from __future__ import annotations

import os
import re
import smtplib
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Permission
from django.core import mail as outbox
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Account, Membership, User
from apikeys import keys
from billing import balance_mails, balance_watch, ledger
from billing.models import LowBalanceMail, WatchedTransfers
from billing.outbox import PAUSES, send_due
from tests import factories, people
from tests.billing import processes, stage
from tests.stack import until

USD = 10**12
ALERTS = "/billing/alerts/"


@pytest.fixture(autouse=True)
def mails(settings: Any) -> list[Any]:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    outbox.outbox = []
    return outbox.outbox


def customer(balance: int) -> Account:
    """With a balance that a sweep has seen."""
    account, _ = people.customer("alice")
    keys.create(account=account, name="laptop", now=datetime.now(UTC))
    factories.credit(account, balance)
    balance_watch.sweep()
    return account


def spend(account: Account, amount: int) -> None:
    factories.recorded(account, amount)
    ledger.settle(account_id=account.pk)


def told(account: Account) -> list[int]:
    """The threshold of each mail that was written, the oldest first."""
    return list(LowBalanceMail.objects.filter(account=account).order_by("id").values_list("threshold", flat=True))


@pytest.mark.django_db
class TestACrossing:
    def test_it_is_told_once_and_again_when_the_balance_was_above_in_between(self) -> None:
        account = customer(6 * USD)
        spend(account, 2 * USD)
        for _ in range(3):
            balance_watch.sweep()
        spend(account, USD)
        balance_watch.sweep()
        assert told(account) == [5 * USD]

        factories.credit(account, 4 * USD)
        balance_watch.sweep()
        assert told(account) == [5 * USD]
        spend(account, 3 * USD)
        balance_watch.sweep()
        assert told(account) == [5 * USD] * 2

    def test_one_mail_is_about_the_lowest_of_several(self) -> None:
        account = customer(60 * USD)
        by = account.users.get()
        balance_watch.set_thresholds(account=account, amounts=[50 * USD, 20 * USD, USD], by=by)

        spend(account, 45 * USD)
        balance_watch.sweep()

        assert told(account) == [20 * USD]

    def test_a_balance_that_was_never_above_is_not_told(self) -> None:
        account = customer(5 * USD)  # As a welcome credit.
        spend(account, 1)
        balance_watch.sweep()

        assert told(account) == []

    def test_a_threshold_that_is_set_above_the_balance_waits_for_it_to_rise(self) -> None:
        account = customer(60 * USD)
        balance_watch.set_thresholds(account=account, amounts=[100 * USD], by=account.users.get())
        spend(account, USD)
        balance_watch.sweep()

        assert told(account) == []

    def test_nobody_is_mailed_who_chose_no_threshold(self) -> None:
        account = customer(6 * USD)
        balance_watch.set_thresholds(account=account, amounts=[], by=account.users.get())
        spend(account, 6 * USD)
        balance_watch.sweep()

        assert told(account) == []

    def test_held_money_is_not_missing_yet(self) -> None:
        account = customer(6 * USD)
        factories.held(factories.ask(account, 3 * USD))
        balance_watch.sweep_all()

        assert told(account) == []

    def test_who_may_add_funds_is_mailed(self) -> None:
        account = customer(6 * USD)
        persons = {role: people.member_of(account, role) for role in Membership.Role.values}
        spend(account, 2 * USD)
        balance_watch.sweep()

        asked = set(LowBalanceMail.objects.filter(account=account).values_list("recipient", flat=True))
        owner = account.users.order_by("pk")[0]
        assert asked == {owner.pk, persons["owner"].pk, persons["admin"].pk, persons["billing"].pk}

    def test_a_sweep_reads_only_what_has_moved(self) -> None:
        account = customer(6 * USD)
        WatchedTransfers.objects.update(last_id=account.wallet.transfers.latest("id").pk)
        spend(account, 2 * USD)
        last = account.wallet.transfers.latest("id").pk
        WatchedTransfers.objects.update(last_id=last)

        with CaptureQueriesContext(connection) as asked:
            balance_watch.sweep()
        assert len(asked) == 1  # Nothing moved, so nothing else is asked.
        assert told(account) == []

        balance_watch.sweep_all()  # What came later than anybody thought.
        assert told(account) == [5 * USD]

    def test_transfers_that_may_not_all_be_committed_yet_are_read_again(self) -> None:
        balance_watch.sweep()
        before = WatchedTransfers.objects.get().last_id
        customer(6 * USD)
        assert WatchedTransfers.objects.get().last_id == before


@pytest.mark.django_db
@pytest.mark.usefixtures("at_rest")
class TestTheMail:
    def test_it_says_what_is_left_what_was_spent_and_where_to_add_funds(self, mails: list[Any]) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()

        assert balance_mails.send_due() == 1
        [mail] = mails
        assert mail.to == [account.users.get().email]
        assert mail.subject == "alice: $4.00 left on Flint"
        assert "is $4.00, which is below $5.00" in mail.body
        assert "In the last 24 hours it spent $6.00. At that rate the balance lasts for less than a day." in mail.body
        assert re.search(r"http\S+/billing/alerts/", mail.body)
        assert mail.extra_headers["Message-ID"].startswith("<lowbalancemail-")

    def test_sending_again_sends_nothing(self, mails: list[Any]) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()

        assert [balance_mails.send_due() for _ in range(3)] == [1, 0, 0]
        assert len(mails) == 1

    def test_it_is_dropped_when_the_balance_is_above_again(self, mails: list[Any]) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()
        factories.credit(account, 5 * USD)

        assert balance_mails.send_due() == 0
        assert mails == []
        assert LowBalanceMail.objects.get(account=account).state == "dropped"

    def test_it_is_dropped_for_who_may_not_add_funds_any_more(self, mails: list[Any]) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()
        Membership.objects.filter(account=account).update(role="member")

        assert balance_mails.send_due() == 0
        assert mails == []
        assert LowBalanceMail.objects.get(account=account).state == "dropped"

    def test_one_that_failed_is_tried_again_later_and_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()
        send = EmailBackend.send_messages

        def refuse(*_: Any) -> int:
            raise smtplib.SMTPServerDisconnected

        monkeypatch.setattr(EmailBackend, "send_messages", refuse)
        assert balance_mails.send_due() == 0
        mail = LowBalanceMail.objects.get(account=account)
        assert (mail.state, mail.attempts, mail.error) == ("waiting", 1, "SMTPServerDisconnected")
        assert timedelta(seconds=50) < mail.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=60)
        assert "not sent yet" in people.owner_of(account).get(ALERTS).content.decode()

        monkeypatch.setattr(EmailBackend, "send_messages", send)
        assert balance_mails.send_due() == 0  # Not yet.
        LowBalanceMail.objects.update(next_attempt_at=datetime.now(UTC) - timedelta(seconds=1))
        assert balance_mails.send_due() == 1

    def test_it_is_given_up_after_the_last_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = customer(10 * USD)
        spend(account, 6 * USD)
        balance_watch.sweep()

        def refuse(*_: Any) -> int:
            raise ConnectionRefusedError

        monkeypatch.setattr(EmailBackend, "send_messages", refuse)
        for _ in range(len(PAUSES) + 3):
            LowBalanceMail.objects.update(next_attempt_at=datetime.now(UTC) - timedelta(seconds=1))
            balance_mails.send_due()

        mail = LowBalanceMail.objects.get(account=account)
        assert (mail.state, mail.attempts) == ("failed", len(PAUSES) + 1)

    def test_staff_send_one_that_was_given_up_again_and_no_other(self, mails: list[Any]) -> None:
        account = customer(USD)
        written = {"account": account, "recipient": account.users.get(), "threshold": 2 * USD}
        given_up = LowBalanceMail.objects.create(**written, state="failed", attempts=7, error="OSError")
        sent = LowBalanceMail.objects.create(**written, state="sent", sent_at=datetime.now(UTC))
        chosen = {"action": "send_again", "_selected_action": [given_up.pk, sent.pk]}
        looker = User.objects.create_user("looker@example.test", is_staff=True)
        looker.user_permissions.set(Permission.objects.filter(codename="view_lowbalancemail"))

        people.signed_in(looker).post("/admin/billing/lowbalancemail/", chosen)
        assert balance_mails.send_due() == 0
        answers = [people.superuser().post("/admin/billing/lowbalancemail/", chosen, follow=True) for _ in range(2)]

        assert ["within a minute: 1." in answer.content.decode() for answer in answers] == [True, False]
        assert balance_mails.send_due() == 1
        given_up.refresh_from_db()
        assert (given_up.state, given_up.attempts, given_up.error, len(mails)) == ("sent", 1, "", 1)

    def test_one_that_cannot_be_written_is_seen_and_keeps_no_other_waiting(self) -> None:
        account = customer(USD)
        for _ in range(2):
            LowBalanceMail.objects.create(account=account, recipient=account.users.get(), threshold=2)

        def write(mail: LowBalanceMail, now: datetime) -> EmailMessage:
            raise ValueError(f"{mail} has no words at {now}")

        assert send_due(LowBalanceMail, write) == 0
        seen = LowBalanceMail.objects.filter(account=account).values_list("state", "attempts", "error")
        assert list(seen) == [("waiting", 1, "ValueError")] * 2


@pytest.mark.usefixtures("committed")
class TestAtTheSameTime:
    def test_many_sweeps_tell_a_crossing_once_and_many_workers_send_each_mail_once(self, mails: list[Any]) -> None:
        accounts = [customer(6 * USD) for _ in range(8)]
        for account in accounts:
            spend(account, 2 * USD)
        stage.at_the_same_time(*[balance_watch.sweep] * 4, *[balance_watch.sweep_all] * 2)
        assert [told(account) for account in accounts] == [[5 * USD]] * 8

        sent = stage.at_the_same_time(*[balance_mails.send_due] * 4)

        emails = {account.users.get().email for account in accounts}
        assert sorted(mail.to[0] for mail in mails if mail.to[0] in emails) == sorted(emails)
        assert sum(sent) == len(mails)

    def test_a_sweep_that_waited_for_another_one_tells_nothing_more(self) -> None:
        account = customer(6 * USD)
        spend(account, 2 * USD)
        with stage.another_connection() as other, psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as eye:
            other.execute("SELECT FROM accounts_account WHERE id = %s FOR UPDATE", [account.pk])

            def let_go_when_both_wait() -> None:
                waiting = "SELECT count(*) > 1 FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
                until(lambda: eye.execute(waiting).fetchone() == (True,))
                other.commit()

            stage.at_the_same_time(balance_watch.sweep, balance_watch.sweep_all, let_go_when_both_wait)

        assert told(account) == [5 * USD]

    def test_a_sweep_killed_in_the_middle_is_made_up_for_by_the_next(self) -> None:
        account = customer(6 * USD)
        spend(account, 2 * USD)
        with stage.another_connection() as other:
            other.execute("SELECT FROM accounts_account WHERE id = %s FOR UPDATE", [account.pk])
            with processes.running(balance_watch.sweep):
                # The threshold is disarmed and the mail written: only the look at its account is left, at the commit.
                stage.wait_until_blocked_by(other)

        # The server may commit for the dead all the same; the next sweep waits for what it does.
        balance_watch.sweep()
        assert told(account) == [5 * USD]


@pytest.mark.django_db
class TestThePage:
    def test_thresholds_are_chosen_and_the_activity_says_so(self) -> None:
        account, _ = people.customer("alice")
        client = people.owner_of(account)
        assert 'value="5"' in client.get(ALERTS).content.decode()

        assert client.post(ALERTS, {"amounts": "$2.50, 20"}).status_code == 302

        assert 'value="20, 2.5"' in client.get(ALERTS).content.decode()
        assert "set at which balance a mail is sent: $20.00, $2.50" in client.get("/activity/").content.decode()

    def test_none_at_all_is_remembered(self) -> None:
        account, _ = people.customer("alice")
        client = people.owner_of(account)
        client.post(ALERTS, {"amounts": ""})

        assert balance_watch.thresholds_of(account) == []

    @pytest.mark.parametrize("amounts", ["ten", "0", "-5", "1, 2, 3, 4, 5, 6", "1e30", "2000000", "\x00"])
    def test_what_is_no_threshold_is_refused(self, amounts: str) -> None:
        account, _ = people.customer("alice")

        assert people.owner_of(account).post(ALERTS, {"amounts": amounts}).status_code == 400
        assert balance_watch.thresholds_of(account) == [5 * USD]

    @pytest.mark.parametrize("amounts", ["1,500", "5,50", "$1,500; 20", "1,500.00", "20, 1,500"])
    def test_a_comma_that_can_be_read_in_two_ways_is_asked_about(self, amounts: str) -> None:
        account, _ = people.customer("alice")
        page = people.owner_of(account).post(ALERTS, {"amounts": amounts}).content.decode()
        assert "can be one amount or several. Write one without a comma: 1500 or 2.50." in page
        assert f'value="{amounts}"' in page
        assert balance_watch.thresholds_of(account) == [5 * USD]

    @pytest.mark.parametrize("amounts", ["1500, 20", "20 ,1500.00", "$1500;$20", "1500; 20,"])
    def test_amounts_are_separated_by_a_comma_and_a_blank_or_a_semicolon(self, amounts: str) -> None:
        account, _ = people.customer("alice")
        people.owner_of(account).post(ALERTS, {"amounts": amounts})
        assert balance_watch.thresholds_of(account) == [1500 * USD, 20 * USD]
