"""What a program asks about its account: its calls, its balance, its usage. Exact, free, and its own only."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from apikeys import keys
from apikeys.keys import SpendCap
from apikeys.models import ApiKey, SpendPeriod
from billing import money, partitions
from billing.models import RefusedCalls, UsageRecord, Wallet
from tests import factories
from tests.billing.looking import called
from tests.gateway import wire
from tests.gateway.conftest import INPUT_RATE, OUTPUT_RATE, Lab
from tests.gateway.customers import FUNDS, Customer, chat, customer
from tests.gateway.scripted import DONE, chunk, usage
from tests.gateway.wire import Answer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def alice(committed: None) -> Customer:
    return customer()


def look(stack: Stack, who: Customer | None, path: str, **query: Any) -> Answer:
    """What the second process says: the calls are made at the first."""
    path = f"/v1/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
    return wire.ask(stack.webs[1], who.secret if who else None, method="GET", path=path)


def seen(stack: Stack, who: Customer, path: str, **query: Any) -> dict[str, Any]:
    answer = look(stack, who, path, **query)
    assert answer.status == 200, answer.body
    return dict(answer.json)


class TestGenerations:
    def test_a_call_is_found_by_each_of_its_ids(self, stack: Stack, alice: Customer) -> None:
        answer = wire.ask(stack.webs[0], alice.secret, chat())
        ids = [answer.json["id"], answer.headers["x-request-id"], answer.call_id, answer.call_id.hex.upper()]
        found = [
            seen(stack, alice, f"generations/{each}") for each in (*ids, f"cmpl-{answer.call_id.hex}", f"{ids[0]}/")
        ]
        assert {(one["id"], one["request_id"]) for one in found} == {(ids[0], ids[1])}

    def test_its_figures_are_those_of_the_answer_and_of_the_record(self, stack: Stack, alice: Customer) -> None:
        answer = wire.ask(stack.webs[0], alice.secret, chat("[demo: tokens=5]"))
        record = alice.only_record()
        assert seen(stack, alice, f"generations/{answer.json['id']}") == {
            "id": answer.json["id"],
            "object": "generation",
            "request_id": answer.headers["x-request-id"],
            "created": answer.json["created"],
            "model": answer.json["model"],
            "streamed": False,
            "status": "ended",
            "outcome": "completed",
            "finish_reason": "stop",
            "usage": {
                "prompt_tokens": answer.json["usage"]["prompt_tokens"],
                "cached_tokens": record.cached_input_tokens,
                "completion_tokens": 5,
                "reasoning_tokens": record.reasoning_tokens,
                "total_tokens": answer.json["usage"]["total_tokens"],
            },
            "usage_source": "backend",
            "cost": answer.headers["x-flint-cost-usd"],
            "settled": True,
            "latency": {"first_token_ms": None, "duration_ms": record.duration_ms},
            "api_key": {"id": alice.key.pk, "name": "a key", "display": alice.key.display},
        }
        assert answer.json["usage"]["cost"] == money.usd(record.charge)

    def test_while_it_runs_it_is_in_progress_and_then_it_has_ended(
        self, stack: Stack, lab: Lab, alice: Customer
    ) -> None:
        second = threading.Event()
        lab.scripted.play(chunk("one"), second, chunk(" two"), chunk(finish="stop"), usage(3, 2), DONE)
        with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
            assert opened.read(1) == ["one"]
            running = seen(stack, alice, f"generations/{opened.call_id}")
            second.set()
            opened.rest()
            ended = seen(stack, alice, f"generations/{opened.call_id}")
        assert (running["status"], running["streamed"], running["settled"]) == ("in_progress", True, False)
        assert {running[name] for name in ("outcome", "usage", "usage_source", "cost", "finish_reason")} == {None}
        assert (ended["status"], ended["outcome"]) == ("ended", "completed")
        assert ended["cost"] == money.usd(3 * INPUT_RATE + 2 * OUTPUT_RATE)
        assert 0 <= ended["latency"]["first_token_ms"] <= ended["latency"]["duration_ms"]

    @pytest.mark.parametrize(
        "text",
        [
            uuid4().hex, f"chatcmpl-{uuid4().hex}", "req_", "x", "chatcmpl-123", "%00", "..", "é" * 32,
            f"chatcmpl-req_{uuid4().hex}", "0" * 33, f"%7B{uuid4()}%7D",
        ],
        ids=range(11),
    )  # fmt: skip
    def test_an_unknown_one_is_404(self, stack: Stack, alice: Customer, text: str) -> None:
        path = f"generations/{text if text.isascii() else '%C3%A9'}"
        answer = look(stack, alice, path)
        assert (answer.status, answer.error["code"]) == (404, "generation_not_found")

    def test_a_call_that_was_refused_leaves_none(self, stack: Stack, alice: Customer) -> None:
        refused = wire.ask(stack.webs[0], alice.secret, chat(model="nothing"))
        assert look(stack, alice, f"generations/{refused.headers['x-request-id']}").status == 404

    def test_a_strangers_call_is_404_while_it_runs_and_after(self, stack: Stack, lab: Lab, alice: Customer) -> None:
        charlie, second = customer(), threading.Event()
        lab.scripted.play(chunk("one"), second, chunk(finish="stop"), usage(3, 1), DONE)
        with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
            opened.read(1)
            running = look(stack, charlie, f"generations/{opened.call_id}")
            second.set()
            opened.rest()
        ended = look(stack, charlie, f"generations/{opened.call_id}")
        assert (running.status, ended.status) == (404, 404)
        assert running.error == ended.error == look(stack, charlie, f"generations/{uuid4()}").error

    def test_every_key_of_the_account_sees_it(self, stack: Stack, alice: Customer) -> None:
        answer = wire.ask(stack.webs[0], alice.secret, chat())
        _, other = keys.create(account=alice.account, name="other", now=datetime.now(UTC))
        found = seen(stack, Customer(alice.account, alice.key, other), f"generations/{answer.json['id']}")
        assert found["api_key"]["name"] == "a key"


class TestBalance:
    def test_it_is_what_was_paid_in_less_what_was_charged(self, stack: Stack, alice: Customer) -> None:
        wire.ask(stack.webs[0], alice.secret, chat())
        charge = alice.only_record().charge
        left = money.usd(FUNDS - charge)
        assert seen(stack, alice, "balance") == {
            "object": "balance", "currency": "USD", "available": left, "held": "0", "posted": left,
        }  # fmt: skip

    def test_what_running_calls_hold_is_not_available(self, stack: Stack, lab: Lab, alice: Customer) -> None:
        go_on = threading.Event()
        lab.scripted.play(chunk("one"), go_on, chunk(finish="stop"), usage(3, 1), DONE)
        with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
            opened.read(1)
            (hold,) = alice.holds
            found = seen(stack, alice, "balance")
            go_on.set()
        assert (found["held"], found["available"]) == (money.usd(hold.amount), money.usd(FUNDS - hold.amount))

    def test_a_debt_is_shown_as_it_is_and_no_wallet_as_zero(self, stack: Stack) -> None:
        nobody = customer(pico=0)
        assert seen(stack, nobody, "balance")["available"] == "0"
        debtor = customer(pico=5)
        called(debtor.account, 5, at=datetime.now(UTC))
        Wallet.objects.filter(pk=debtor.account.pk).update(posted=-7)
        assert seen(stack, debtor, "balance")["available"] == "-0.000000000007"
        Wallet.objects.filter(pk=debtor.account.pk).update(posted=0)


class TestKey:
    def test_it_is_named_with_its_limits_and_what_is_left_of_them(
        self, stack: Stack, lab: Lab, alice: Customer
    ) -> None:
        go_on, tier = threading.Event(), alice.account.tier
        lab.scripted.play(chunk("one"), go_on, chunk(finish="stop"), usage(3, 1), DONE)
        with wire.stream(stack.webs[0], alice.secret, chat(model=lab.of_script)) as opened:
            opened.read(1)
            found = seen(stack, alice, "key")
            head = opened.answer
            go_on.set()
        assert found == {
            "id": alice.key.pk,
            "object": "key",
            "name": "a key",
            "display": alice.key.display,
            "created": int(alice.key.created_at.timestamp()),
            "expires": None,
            "limits": {
                "requests_per_minute": {"limit": tier.requests_per_minute, "remaining": head.left("requests")},
                "tokens_per_minute": {"limit": tier.tokens_per_minute, "remaining": head.left("tokens")},
                "concurrent_requests": {
                    "limit": tier.concurrent_requests, "remaining": tier.concurrent_requests - 1,
                },
            },
            "spend_cap": None,
        }  # fmt: skip

    def test_a_tighter_limit_of_its_own_is_the_one_that_is_told(self, stack: Stack, alice: Customer) -> None:
        keys.set_limits(key=alice.key, requests_per_minute=3, tokens_per_minute=None, concurrent_requests=None)
        limits = until(lambda: self.limited(stack, alice, 3))
        assert limits["requests_per_minute"]["remaining"] == 3
        assert limits["tokens_per_minute"]["limit"] == alice.account.tier.tokens_per_minute

    def limited(self, stack: Stack, who: Customer, requests: int) -> Any:
        limits = seen(stack, who, "key")["limits"]
        return limits if limits["requests_per_minute"]["limit"] == requests else None

    def test_its_expiry_is_told(self, stack: Stack, alice: Customer) -> None:
        expires_at = datetime.now(UTC) + timedelta(days=1)
        keys.set_expiry(key=alice.key, expires_at=expires_at)
        assert seen(stack, alice, "key")["expires"] == int(expires_at.timestamp())

    def test_its_spend_cap_and_what_is_left_of_it(self, stack: Stack, alice: Customer) -> None:
        keys.set_spend_cap(key=alice.key, cap=SpendCap(10**12, SpendPeriod.DAY))
        fresh = seen(stack, alice, "key")["spend_cap"]
        wire.ask(stack.webs[0], alice.secret, chat())
        charge = alice.only_record().charge
        tomorrow = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), time(), UTC)
        assert fresh == {
            "amount": "1", "period": "day", "spent": "0", "held": "0", "remaining": "1",
            "resets": int(tomorrow.timestamp()),
        }  # fmt: skip
        spent = {"spent": money.usd(charge), "remaining": money.usd(10**12 - charge)}
        assert seen(stack, alice, "key")["spend_cap"] == {**fresh, **spent}

    def test_a_cap_in_total_never_starts_again(self, stack: Stack, alice: Customer) -> None:
        keys.set_spend_cap(key=alice.key, cap=SpendCap(5, SpendPeriod.TOTAL))
        assert seen(stack, alice, "key")["spend_cap"]["resets"] is None


class TestUsage:
    @pytest.fixture
    def today(self) -> date:
        return datetime.now(UTC).date()

    @pytest.fixture
    def busy(self, alice: Customer) -> Customer:
        """Yesterday and today, two models, two keys."""
        now = datetime.now(UTC)
        partitions.ensure(now=now - timedelta(days=1), months_ahead=1)
        version = factories.price()
        other, _ = keys.create(account=alice.account, name="other", now=now)
        called(alice.account, 1, at=now - timedelta(days=1), api_key_id=alice.key.pk, output_tokens=4)
        called(alice.account, 10, at=now, api_key_id=alice.key.pk)
        called(alice.account, 100, at=now, api_key_id=other.pk)
        sold: dict[str, Any] = {"model_id": version.model_id, "price_version_id": version.pk}
        called(alice.account, 1000, at=now, api_key_id=other.pk, **sold)
        return alice

    def test_by_day_for_the_last_30_days(self, stack: Stack, busy: Customer, today: date) -> None:
        found = seen(stack, busy, "usage")
        assert (found["start"], found["end"]) == (str(today - timedelta(days=29)), str(today))
        assert (found["group_by"], found["has_more"], found["next_page"]) == (["day"], False, None)
        assert found["data"][0] == {
            "day": str(today - timedelta(days=1)), "model": None, "api_key": None, "calls": 1, "prompt_tokens": 3,
            "cached_tokens": 1, "completion_tokens": 4, "total_tokens": 7, "cost": "0.000000000001",
        }  # fmt: skip
        assert [(row["day"], row["calls"], row["cost"]) for row in found["data"][1:]] == [
            (str(today), 3, money.usd(1110))
        ]

    @pytest.mark.parametrize("by", ["day,model,key", ["day", "model", "key"], ["key,day", "model"]])
    def test_by_everything(self, stack: Stack, busy: Customer, by: Any, today: date) -> None:
        rows = seen(stack, busy, "usage", group_by=by)["data"]
        assert [(row["day"] == str(today), row["api_key"]["name"], row["cost"]) for row in rows] == [
            (False, "a key", money.usd(1)),
            (True, "a key", money.usd(10)),
            (True, "other", money.usd(100)),
            (True, "other", money.usd(1000)),
        ]
        assert len({row["model"] for row in rows}) == 2

    def test_in_one_sum_and_filtered(self, stack: Stack, busy: Customer, today: date) -> None:
        other = ApiKey.objects.get(account=busy.account, name="other")

        def cost(**query: Any) -> list[str]:
            return [row["cost"] for row in seen(stack, busy, "usage", group_by="", **query)["data"]]

        assert cost() == [money.usd(1111)]
        assert cost(start=today) == [money.usd(1110)]
        assert cost(end=today - timedelta(days=1)) == [money.usd(1)]
        assert cost(api_key=other.pk) == [money.usd(1100)]
        assert cost(model="deepseek-v4-flash") == [money.usd(111)]
        assert cost(model="deepseek-v4-flash", api_key=other.pk) == [money.usd(100)]
        assert cost(model="no-such-model") == cost(api_key=2**62) == []
        assert cost(start=today, end=date(9999, 12, 31)) == [money.usd(1110)]

    @pytest.mark.parametrize("by", ["", "day", "model", "key", "day,key", "model,key", "day,model,key"])
    def test_pages_of_one_row_are_the_whole(self, stack: Stack, busy: Customer, by: str) -> None:
        whole = seen(stack, busy, "usage", group_by=by)["data"]
        found = seen(stack, busy, "usage", group_by=by, limit=1)
        rows = found["data"]
        while found["has_more"]:
            found = seen(stack, busy, "usage", group_by=by, limit=1, page=found["next_page"])
            rows += found["data"]
        assert rows == whole

    def test_a_stranger_sees_nothing_of_it(self, stack: Stack, busy: Customer) -> None:
        charlie = customer()
        assert seen(stack, charlie, "usage", api_key=busy.key.pk)["data"] == []

    def test_a_call_over_the_socket_is_in_it(self, stack: Stack, alice: Customer) -> None:
        wire.ask(stack.webs[0], alice.secret, chat())
        record = alice.only_record()
        (row,) = until(lambda: seen(stack, alice, "usage")["data"])
        assert (row["cost"], row["completion_tokens"]) == (money.usd(record.charge), record.output_tokens)

    @pytest.mark.parametrize(
        ("query", "param"),
        [
            *[({"start": value}, "start") for value in ("", "yesterday", "2026-13-01", "26-1-1", "9999-12-31", "5")],
            ({"start": "2020-01-01"}, "start"),
            ({"start": "2026-01-02", "end": "2026-01-01"}, "start"),
            *[({"end": value}, "end") for value in ("", "2026-02-30", "\0")],
            ({"group_by": "hour"}, "group_by[0]"),
            ({"group_by": ["day", "hour"]}, "group_by[1]"),
            *[({"limit": value}, "limit") for value in ("0", "1001", "many", "-1", "1.5", "")],
            *[({"api_key": value}, "api_key") for value in ("0", "tk-abc", "9" * 30)],
            *[({"model": value}, "model") for value in ("", "x" * 201, "a\0b")],
            *[({"page": value}, "page") for value in ("", "x", "2026-13-45.1.1", "2026-01-01.1", "١٢٣٤-01-01.1.1")],
        ],
        ids=repr,
    )
    def test_a_bad_parameter_is_400_with_its_name(
        self, stack: Stack, alice: Customer, query: dict[str, Any], param: str
    ) -> None:
        answer = look(stack, alice, "usage", **query)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", param)

    def test_too_many_parameters_are_400_and_others_than_ours_are_ignored(self, stack: Stack, alice: Customer) -> None:
        assert look(stack, alice, "usage", **{f"x{number}": 1 for number in range(51)}).status == 400
        assert look(stack, alice, "usage", format="html", utm_source="x").status == 200


@pytest.mark.parametrize("path", ["generations/x", "balance", "usage", "key"])
def test_each_wants_a_key_that_works_and_no_other_method(stack: Stack, alice: Customer, path: str) -> None:
    assert look(stack, None, path).status == 401
    for method in ("POST", "DELETE"):
        answer = wire.ask(stack.webs[0], alice.secret, b"{}", method=method, path=f"/v1/{path}")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    ApiKey.objects.filter(pk=alice.key.pk).update(disabled_at=datetime.now(UTC))
    until(lambda: look(stack, alice, path).status == 403)


def test_questions_cost_nothing_and_take_nothing_of_the_limits(stack: Stack) -> None:
    charlie = customer(tier="Standard")
    for _ in range(70):  # More than its requests per minute.
        assert look(stack, charlie, "balance").status == 200
    assert charlie.taken() == (0, 0, 0)
    assert UsageRecord.objects.filter(account=charlie.account).count() == 0


def test_a_question_that_is_refused_is_no_refused_call(stack: Stack, alice: Customer) -> None:
    assert look(stack, alice, "generations/x").status == 404
    assert look(stack, alice, "usage", limit=0).status == 400
    assert wire.ask(stack.webs[1], alice.secret, b"{}").status == 400
    counted = RefusedCalls.objects.filter(account=alice.account)
    assert until(lambda: list(counted.values_list("code", "calls"))) == [("invalid_request", 1)]
