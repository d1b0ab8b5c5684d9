"""The requests page: every call once, page by page, whatever is asked for; and one call in full."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from apikeys.models import ApiKey
from billing import call_log, pricing
from billing.call_log import Search
from billing.models import LateUsageRecord, PriceRate, PriceVersion
from tests import factories
from tests.billing.looking import called, customer, downloaded, member, text

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)


def ids(page: call_log.Page) -> list[UUID]:
    return [call.id for call in page.calls]


class TestPages:
    def test_every_call_is_on_one_page_newest_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call_log, "PAGE", 3)
        account, _ = customer()
        made = [called(account, 1, at=NOW - timedelta(minutes=minute)).id for minute in range(8)]
        search = Search(account)

        first = call_log.page(search)
        second = call_log.page(search, before=first.older)
        third = call_log.page(search, before=second.older)

        assert [ids(first), ids(second), ids(third)] == [made[:3], made[3:6], made[6:]]
        assert (first.newer, third.older) == (None, None)
        assert ids(call_log.page(search, after=third.newer)) == ids(second)
        assert ids(call_log.page(search, after=second.newer)) == ids(first)

    def test_new_calls_do_not_shift_what_is_on_the_next_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call_log, "PAGE", 2)
        account, _ = customer()
        made = [called(account, 1, at=NOW - timedelta(minutes=minute)).id for minute in range(4)]
        first = call_log.page(Search(account))

        called(account, 1, at=NOW)

        assert ids(call_log.page(Search(account), before=first.older)) == made[2:]

    def test_filters_narrow_it_down(self) -> None:
        account, _ = customer()
        key = ApiKey.objects.create(account=account, name="other", digest=b"o" * 32, display="tk-o")
        version = factories.price()
        plain = called(account, 1, at=NOW).id
        keyed = called(account, 1, at=NOW, api_key_id=key.pk).id
        modelled = called(account, 1, at=NOW, model_id=version.model_id, price_version_id=version.pk).id
        hung_up = called(account, 1, at=NOW, outcome="client_closed").id
        old = called(account, 1, at=NOW - timedelta(days=40)).id

        def found(**filters: object) -> set[UUID]:
            return set(ids(call_log.page(Search(account, **filters))))  # type: ignore[arg-type]

        assert found() == {plain, keyed, modelled, hung_up, old}
        assert found(key_id=key.pk) == {keyed}
        assert found(model_id=version.model_id) == {modelled}
        assert found(outcome="client_closed") == {hung_up}
        assert found(until=NOW - timedelta(days=1)) == {old}
        assert found(since=NOW - timedelta(days=1), outcome="completed") == {plain, keyed, modelled}

    def test_a_search_that_finds_little_looks_at_so_many_calls_and_says_from_where_to_go_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(call_log, "LOOKED_AT", 4)
        account, _ = customer()
        made = [called(account, 1, at=NOW - timedelta(minutes=minute)) for minute in range(6)]
        rare = called(account, 1, at=NOW - timedelta(hours=1), outcome="client_closed").id
        search = Search(account, outcome="client_closed")

        first = call_log.page(search)
        second = call_log.page(search, before=first.older)

        assert (ids(first), first.older, first.looked_back_to) == ([], made[3].id, made[3].admitted_at)
        assert (ids(second), second.older, second.looked_back_to) == ([rare], None, None)
        assert [call.id for batch in call_log.batches(search) for call in batch] == [rare]

    def test_calls_of_another_account_are_in_none(self) -> None:
        account, _ = customer()
        other, _ = customer()
        called(other, 1, at=NOW)

        assert ids(call_log.page(Search(account))) == []
        assert list(call_log.batches(Search(account))) == []


class TestPage:
    def test_shows_what_each_call_was_and_cost(self) -> None:
        account, owner = customer()
        call = called(account, 38_400_001, at=NOW, first_token_ms=840, duration_ms=2_400)

        content = text(owner, "/requests/")

        assert f"/requests/{call.id}/" in content
        assert 'title="0.000038400001 USD">$0.0000384</span>' in content
        assert ["840 ms" in content, "2.4 s" in content, "Completed" in content] == [True] * 3

    def test_links_to_the_next_page_keep_the_filters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call_log, "PAGE", 1)
        account, owner = customer()
        for _ in range(2):
            called(account, 1, at=NOW)

        content = text(owner, "/requests/?outcome=completed&period=30d")

        link = re.search(r'href="(\?[^"]*before=[^"]*)"', content)
        assert link is not None
        assert "outcome=completed&amp;period=30d" in link[1]
        second = text(owner, "/requests/" + link[1].replace("&amp;", "&"))
        assert second.count("/requests/0") == 1
        assert "Newest" in second

    def test_says_what_will_be_here_or_that_nothing_matches(self) -> None:
        _, owner = customer()

        assert "There is none yet" in text(owner, "/requests/")
        assert "No call matches" in text(owner, "/requests/?outcome=swept")

    @pytest.mark.parametrize(
        "query",
        [
            "before=x", "after=%00", "key=999999999999999999999999", "key=-1", "key=%00", "key=1%27", "model=nothing",
            "model=%00", "outcome=x", "outcome=%00", "period=x", "period=custom", "period=custom&since=x",
            "period=custom&since=0001-01-01", "period=custom&since=9999-12-31",
            "period=custom&since=2026-01-01&until=x",
            "period=custom&since=2020-01-01&until=9999-12-31", "period=custom&since=2026-11-02&until=2026-11-01",
            "period=custom&since=%00", "key=%F0%9F%92%A5", "key=%ff",
        ],
    )  # fmt: skip
    def test_a_filter_that_makes_no_sense_is_told(self, query: str) -> None:
        _, owner = customer()

        for address in ("/requests/", "/requests/export.csv"):
            assert 'role="alert"' in text(owner, f"{address}?{query}", status=400)

    def test_a_cursor_of_no_call_is_a_place_like_any_other(self) -> None:
        account, owner = customer()
        called(account, 1, at=NOW)

        assert "No call matches" in text(owner, f"/requests/?before={UUID(int=0)}&outcome=completed")
        assert "Completed" in text(owner, f"/requests/?after={UUID(int=2**128 - 1)}")
        assert owner.get(f"/requests/?before={uuid4()}").status_code == 200

    def test_the_key_of_another_account_is_not_known(self) -> None:
        _, owner = customer()
        other, _ = customer()

        assert "Select a valid choice" in text(owner, f"/requests/?key={other.api_keys.get().pk}", status=400)

    def test_a_model_that_is_no_longer_listed_is_known_to_who_used_it(self) -> None:
        account, owner = customer()
        version = factories.price(factories.language_model(listed=False))
        name = version.model.public_id

        assert text(owner, f"/requests/?model={name}", status=400)
        called(account, 1, at=NOW, model_id=version.model_id, price_version_id=version.pk)
        assert f"<code>{name}</code>" in text(owner, f"/requests/?model={name}")

    def test_takes_few_queries(self, django_assert_max_num_queries: object) -> None:
        account, owner = customer()
        for minute in range(60):
            called(account, 1, at=NOW - timedelta(minutes=minute), settled=False)

        with django_assert_max_num_queries(12):  # type: ignore[operator]
            text(owner, "/requests/?outcome=completed&period=30d")


class TestOneCall:
    def test_the_charge_is_computed_line_by_line_to_the_last_pico_dollar(self) -> None:
        account, owner = customer()
        version = factories.price(input=140_001, output=280_000)
        usage = pricing.Usage(input_tokens=1_003, output_tokens=17, cached_input_tokens=3)
        charge = pricing.price_of(version.pk).charge(usage)
        call = called(
            account, charge, at=NOW, model_id=version.model_id, price_version_id=version.pk,
            input_tokens=1_003, cached_input_tokens=3, output_tokens=17,
        )  # fmt: skip

        content = text(owner, f"/requests/{call.id}/")

        amounts = [Decimal(found) for found in re.findall(r">(\d+\.\d{12})<", content)]
        assert amounts[:-1] == [
            Decimal(tokens * rate).scaleb(-12) for tokens, rate in ((1_000, 140_001), (3, 140_001), (17, 280_000))
        ]
        assert amounts[-1] == sum(amounts[:-1]) == Decimal(charge).scaleb(-12)
        assert f"Price version {version.pk}, the list price since" in content
        assert "Only what was held" not in content

    def test_more_than_was_held_is_not_charged(self) -> None:
        account, owner = customer()
        call = called(account, 5, at=NOW, clamped=True, input_tokens=1000, cached_input_tokens=0, output_tokens=0)
        found = call_log.find(account, call.id)

        content = text(owner, f"/requests/{call.id}/")

        assert found is not None
        assert found.priced - found.not_charged == 5
        assert "Only what was held is charged" in content
        assert "More than was held: not charged" in content

    def test_a_long_prompt_is_priced_by_its_band(self) -> None:
        account, _ = customer()
        version = PriceVersion.objects.create(model=factories.language_model(), starts_at=NOW)
        for context_from, rate in ((0, 2), (100, 9)):
            for meter in PriceRate.Meter:
                PriceRate.objects.create(version=version, meter=meter, context_from=context_from, pico_per_token=rate)
        call = called(
            account, 900 + 18, at=NOW, model_id=version.model_id, price_version_id=version.pk, input_tokens=100
        )

        found = call_log.find(account, call.id)

        assert found is not None
        assert (found.priced, found.not_charged, found.long_context) == (918, 0, True)

    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"outcome": "unresolved", "source": "none"}, "Nothing is charged"),
            ({"outcome": "swept", "source": "checkpoint"}, "at the last checkpoint"),
            ({"outcome": "client_closed", "source": "estimated"}, "counted by us from what was relayed"),
            ({"outcome": "backend_failed"}, "The model failed in the middle"),
            ({"outcome": "server_stopped"}, "Our server was stopped"),
            ({"outcome": "key_disabled"}, "was disabled while the call ran"),
        ],
    )
    def test_what_went_wrong_is_told_in_words(self, fields: dict[str, Any], told: str) -> None:
        account, owner = customer()
        call = called(account, 0, at=NOW, **fields)

        assert told in text(owner, f"/requests/{call.id}/")

    def test_a_call_that_still_runs_says_so(self) -> None:
        account, owner = customer()
        call = factories.ask(account, 77)
        factories.held(call)

        assert "has not ended yet" in text(owner, f"/requests/{call.id}/")

    def test_a_call_that_is_not_charged_yet_says_so(self) -> None:
        account, owner = customer()
        call = called(account, 7, at=NOW, settled=False)

        assert "will be charged in a moment" in text(owner, f"/requests/{call.id}/")

    def test_leads_to_its_day_on_the_statement_whoever_may_see_that(self) -> None:
        account, owner = customer()
        call = called(account, 7, at=NOW)
        link = f"/statement/?month={NOW:%Y-%m}&amp;day={NOW:%Y-%m-%d}"

        assert link in text(owner, f"/requests/{call.id}/")
        assert "/statement/" not in text(member(account, "member"), f"/requests/{call.id}/")

    def test_a_late_report_is_told(self) -> None:
        account, owner = customer()
        call = called(account, 7, at=NOW, outcome="swept", source="checkpoint")
        LateUsageRecord.objects.create(id=call.id, account=account, record={})

        assert "another report of it came" in text(owner, f"/requests/{call.id}/")

    def test_what_is_only_ours_to_know_is_not_shown(self) -> None:
        account, owner = customer()
        call = called(account, 7, at=NOW, backend="secret-backend-7")

        assert "secret-backend-7" not in text(owner, f"/requests/{call.id}/") + text(owner, "/requests/")

    def test_a_call_of_another_account_is_not_found_running_or_not(self) -> None:
        account, _ = customer()
        _, charlie = customer()
        ended = called(account, 7, at=NOW)
        runs = factories.ask(account, 77)
        factories.held(runs)

        for call_id in (ended.id, runs.id, uuid4()):
            assert charlie.get(f"/requests/{call_id}/").status_code == 404
        assert charlie.get("/requests/1/").status_code == 404


class TestFile:
    def test_has_the_calls_of_the_page_in_the_same_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call_log, "EXPORT_BATCH", 2)
        account, owner = customer()
        made = [called(account, 10**9 + minute, at=NOW - timedelta(minutes=minute)) for minute in range(5)]

        name, rows = downloaded(owner, "/requests/export.csv")

        assert name == f"requests-until-{datetime.now(UTC):%Y-%m-%d}.csv"
        assert [row["id"] for row in rows] == [str(call.id) for call in made]
        assert [row["id"] for row in rows] == re.findall(r"/requests/([0-9a-f-]{36})/", text(owner, "/requests/"))
        assert [row["cost_usd"] for row in rows] == [f"0.00100000000{minute}".rstrip("0") for minute in range(5)]

    def test_keeps_the_filters(self) -> None:
        account, owner = customer()
        called(account, 1, at=NOW)
        wanted = called(account, 1, at=NOW, outcome="client_closed")

        _, rows = downloaded(owner, "/requests/export.csv?outcome=client_closed&period=7d")

        assert [row["id"] for row in rows] == [str(wanted.id)]

    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx"])
    def test_a_name_is_never_a_formula(self, name: str) -> None:
        account, owner = customer()
        ApiKey.objects.filter(account=account).update(name=name)
        called(account, 1, at=NOW)

        _, rows = downloaded(owner, "/requests/export.csv")

        assert rows[0]["key"] == f"'{name}"
