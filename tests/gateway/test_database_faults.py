"""PostgreSQL away, silent, or gone with an answer on its way: nobody pays twice, nobody pays for nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import OperationalError, connection

from accounts.models import Account
from billing import ledger, settlement
from billing.models import LateUsageRecord, ReleasedHolds, Transfer, UsageRecord
from billing.usage import Outcome, Source
from gateway.database import AWAY, Pools
from tests import factories
from tests.billing import stage
from tests.billing.stage import assert_books_hold
from tests.gateway import wire
from tests.gateway.customers import FUNDS, Customer, chat, customer
from tests.gateway.processes import RECOVERY_SECONDS, database_proxy, wait_until_healthy, web_process
from tests.proxy import Proxy
from tests.stack import Stack, WebProcess, until

pytestmark = pytest.mark.usefixtures("committed")

OUTAGE_SECONDS = 3.0  # Less than the patience of 5 s, and long enough for clients that back off.


def test_a_server_that_only_reads_is_away_and_another_one_is_asked() -> None:
    """So is a primary after a failover."""

    async def write(pools: Pools, *first: str) -> None:
        async with pools.main.connection() as database:
            for statement in (*first, "DELETE FROM gateway_idempotentcall WHERE false"):
                await database.execute(statement)

    async def story() -> None:
        pools = Pools()
        await pools.open()
        try:
            with pytest.raises(AWAY):
                await write(pools, "SET default_transaction_read_only = on")
            for _ in range(settings.GATEWAY_DATABASE_CONNECTIONS):
                await write(pools)
        finally:
            await pools.close()

    asyncio.run(story())


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with database_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def proxied(stack: Stack, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    through_the_proxy = proxy.in_place_of(os.environ["DATABASE_URL"])
    with web_process(tmp_path_factory.mktemp("proxied"), DATABASE_URL=through_the_proxy) as web:
        yield web


@pytest.fixture
def web(proxied: WebProcess, proxy: Proxy) -> Iterator[WebProcess]:
    """A process that reaches PostgreSQL through the proxy."""
    wait_until_healthy(proxied)
    yield proxied
    proxy.restore()


def trace_of(of: Customer) -> bytes:
    """What holds and records of the customer say on the wire."""
    return f'"account_id":{of.account.pk},'.encode()


def released(of: Customer) -> dict[str, int]:
    return dict(ReleasedHolds.objects.filter(account=of.account).values_list("reason", "calls"))


def assert_nothing_charged(of: Customer) -> None:
    assert not of.records
    wallet = of.wallet
    assert (wallet.posted, wallet.held, wallet.holds_opened, wallet.holds_released) == (FUNDS, 0, 1, 1)


def assert_charged_once(of: Customer) -> UsageRecord:
    record, wallet = of.only_record(), of.wallet
    assert (record.outcome, record.source) == (Outcome.COMPLETED, Source.BACKEND)
    assert (wallet.posted, wallet.held, wallet.holds_recorded) == (FUNDS - record.charge, 0, 1)
    assert not LateUsageRecord.objects.filter(account=of.account).exists()
    return record


@pytest.mark.parametrize(
    ("path", "words"),
    [("balance", b"SELECT posted, held"), ("usage", b"FROM billing_usagehour"), ("key", b"SELECT name, display")],
)
def test_a_question_whose_answer_is_lost_is_503_and_can_be_asked_again(
    web: WebProcess, proxy: Proxy, path: str, words: bytes
) -> None:
    alice = customer()
    proxy.swallow(words, times=1)

    refusal = wire.ask(web, alice.secret, method="GET", path=f"/v1/{path}")

    assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
    assert refusal.retry_after >= 1
    assert wire.ask(web, alice.secret, method="GET", path=f"/v1/{path}").status == 200


class TestAnAnswerIsLost:
    def test_of_a_reserve_the_call_is_refused_and_its_hold_given_back(
        self, stack: Stack, web: WebProcess, proxy: Proxy
    ) -> None:
        alice = customer()
        proxy.swallow(trace_of(alice), times=1)

        refusal = wire.ask(web, alice.secret, chat())

        assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
        assert refusal.retry_after >= 1
        assert [hold.pk for hold in alice.holds] == [refusal.call_id]  # It was committed all the same.
        until(lambda: not alice.holds, RECOVERY_SECONDS)
        assert released(alice) == {"forgotten": 1}
        assert_nothing_charged(alice)
        assert alice.taken() == (0, 0, 0)
        assert stack.backend.entries(str(refusal.call_id)) == []

    def test_of_a_reserve_that_arrives_long_after_the_refusal_too(
        self, stack: Stack, web: WebProcess, proxy: Proxy
    ) -> None:
        alice = customer()
        proxy.hang(at=trace_of(alice))

        refusal = wire.ask(web, alice.secret, chat())

        assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
        assert proxy.hanging
        assert not alice.holds
        proxy.restore()
        until(lambda: released(alice) == {"forgotten": 1}, RECOVERY_SECONDS)
        assert_nothing_charged(alice)
        assert stack.backend.entries(str(refusal.call_id)) == []

    def test_of_a_record_it_is_written_again_and_the_customer_sees_nothing(self, web: WebProcess, proxy: Proxy) -> None:
        alice = customer()
        lost_before = proxy.lost_answers
        with wire.stream(web, alice.secret, chat("[demo: tokens=20 tokens_per_second=50]")) as opened:
            opened.read(1)
            proxy.swallow(trace_of(alice), times=1)
            *_, last, done = opened.rest()

        assert done is None
        assert last is not None
        assert "error" not in last
        assert proxy.lost_answers == lost_before + 1
        assert assert_charged_once(alice).output_tokens == 20

    def test_of_a_record_again_and_again_the_customer_is_told_and_pays_once(
        self, web: WebProcess, proxy: Proxy
    ) -> None:
        alice = customer()
        lost_before = proxy.lost_answers
        with wire.stream(web, alice.secret, chat("[demo: tokens=20 tokens_per_second=50]")) as opened:
            opened.read(1)
            proxy.swallow(trace_of(alice))
            *_, last, done = opened.rest()

        assert done is None
        assert last is not None
        assert "could not be recorded" in last["error"]["message"]
        assert proxy.lost_answers > lost_before + 1
        proxy.restore()
        assert assert_charged_once(alice).output_tokens == 20

    def test_of_a_release_nothing_is_given_back_twice(self, web: WebProcess, proxy: Proxy) -> None:
        alice = customer()
        lost_before = proxy.lost_answers
        proxy.swallow(b"model_unavailable", times=1)

        refusal = wire.ask(web, alice.secret, chat("[demo: status=500]"))

        assert (refusal.status, refusal.error["code"]) == (503, "model_unavailable")
        assert proxy.lost_answers == lost_before + 1
        assert released(alice) == {"model_unavailable": 1}
        assert_nothing_charged(alice)
        assert alice.taken() == (0, 0, 0)


class TestACommitIsLost:
    """Of statements that Django sends, over a connection of its own through the proxy."""

    @pytest.fixture(autouse=True)
    def through_the_proxy(self, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        connection.close()
        monkeypatch.setitem(connection.settings_dict, "PORT", proxy.port)
        yield
        proxy.restore()
        connection.close()

    @pytest.fixture
    def account(self) -> Account:
        return factories.funded(1000)

    def test_of_a_settlement_it_is_charged_once(
        self, account: Account, proxy: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        stage.admitted_and_recorded(account, [60, 70])
        proxy.swallow(b"COMMIT", times=1)

        assert settlement.settle_accounts(account_ids=[account.pk]) == 0

        assert f"account {account.pk} could not be settled" in caplog.text
        assert settlement.settle_accounts(account_ids=[account.pk]) == 0  # There was nothing left to do.
        wallet = stage.wallet_of(account)
        assert (wallet.posted, wallet.held, wallet.holds_recorded) == (870, 0, 2)
        assert Transfer.objects.filter(wallet=wallet, kind="usage").count() == 1
        assert_books_hold()

    def test_of_a_settlement_the_next_account_is_settled_all_the_same(self, account: Account, proxy: Proxy) -> None:
        other = factories.funded(1000)
        stage.admitted_and_recorded(account, [60])
        stage.admitted_and_recorded(other, [70, 80])
        proxy.swallow(b"COMMIT", times=1)

        assert settlement.settle_accounts(account_ids=[account.pk, other.pk]) == 2

        assert (stage.wallet_of(account).posted, stage.wallet_of(other).posted) == (940, 850)

    def test_of_a_credit_it_is_credited_once(self, account: Account, proxy: Proxy) -> None:
        cause = factories.unique("payment")
        proxy.swallow(b"COMMIT", times=1)
        with pytest.raises(OperationalError):
            factories.credit(account, 50, cause=cause)

        factories.credit(account, 50, cause=cause)

        assert stage.wallet_of(account).posted == 1050
        assert stage.lots_of(account) == [("paid", 1000), ("paid", 50)]
        assert_books_hold()

    def test_of_a_debit_it_is_debited_once(self, account: Account, proxy: Proxy) -> None:
        cause = factories.unique("correction")
        proxy.swallow(b"COMMIT", times=1)
        with pytest.raises(OperationalError):
            factories.debit(account, 50, cause=cause)

        factories.debit(account, 50, cause=cause)

        assert stage.wallet_of(account).posted == 950
        assert_books_hold()

    def test_of_an_expiry_the_lot_is_taken_back_once(self, account: Account, proxy: Proxy) -> None:
        now = datetime.now(UTC)
        factories.promotion(account, 30, expires_at=now + timedelta(days=1))
        later = now + timedelta(days=2)
        proxy.swallow(b"COMMIT", times=1)
        with pytest.raises(OperationalError):
            ledger.expire_lots(account_id=account.pk, now=later)

        assert ledger.expire_lots(account_id=account.pk, now=later) == 0

        assert stage.wallet_of(account).posted == 1000
        assert Transfer.objects.filter(wallet_id=account.pk, kind="expiry").count() == 1
        assert_books_hold()


@pytest.mark.parametrize("fail", [Proxy.cut, Proxy.hang])
class TestPostgresIsAway:
    def test_for_less_than_the_patience_of_an_ending_stream_it_ends_well(
        self, web: WebProcess, proxy: Proxy, fail: Callable[[Proxy], None]
    ) -> None:
        alice = customer()
        with wire.stream(web, alice.secret, chat("[demo: tokens=10 tokens_per_second=50]")) as opened:
            opened.read(1)
            fail(proxy)
            read_to_the_finish(opened)
            time.sleep(OUTAGE_SECONDS)  # The outage goes on: the customer has the text, and waits for its end.
            assert not alice.records
            proxy.restore()
            assert opened.rest() == [None]
        assert assert_charged_once(alice).output_tokens == 10

    def test_for_longer_records_outlive_it_and_customers_are_told_the_truth(
        self, stack: Stack, web: WebProcess, proxy: Proxy, fail: Callable[[Proxy], None]
    ) -> None:
        alice = customer()
        short = chat("[demo: tokens=10 tokens_per_second=50]")
        long = chat("[demo: tokens=160 tokens_per_second=50]")
        with wire.stream(web, alice.secret, short) as first, wire.stream(web, alice.secret, long) as second:
            first.read(1)
            second.read(1)
            fail(proxy)

            started = time.monotonic()
            refusal = wire.ask(web, customer().secret, chat())
            assert (refusal.status, refusal.error["code"]) == (503, "service_unavailable")
            assert refusal.retry_after >= 1
            assert time.monotonic() - started < 4
            assert stack.backend.entries(str(refusal.call_id)) == []

            *_, error, done = first.rest()
            assert 4 < time.monotonic() - started < 8
            assert done is None
            assert error is not None
            assert "could not be recorded" in error["error"]["message"]

            # The second stream ended meanwhile; its record is waited for, and now it can be written.
            proxy.restore()
            *_, finish, done = second.rest()
            assert done is None
            assert finish is not None
            assert finish["choices"][0]["finish_reason"]

        records = alice.settled(2, RECOVERY_SECONDS)
        assert [record.pk for record in records] == [first.call_id, second.call_id]
        assert {(record.outcome, record.source) for record in records} == {(Outcome.COMPLETED, Source.BACKEND)}
        assert [record.output_tokens for record in records] == [10, 160]
        until(lambda: wire.ask(web, alice.secret, chat(max_tokens=1)).status == 200, RECOVERY_SECONDS)
        assert_books_hold()


def read_to_the_finish(opened: wire.Stream) -> None:
    """All of the text: what is missing is [DONE]."""
    for event in opened.events():
        if event is not None and event["choices"][0]["finish_reason"]:
            return
    raise AssertionError("The stream ended without a finish.")
