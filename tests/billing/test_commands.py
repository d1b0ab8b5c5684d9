from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from billing import money, price_list
from billing.models import CreditLot, PriceVersion, Transfer, Wallet
from tests import factories, people

NEXT_QUARTER = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=90)

CREDIT = ("--usd", "10", "--reason", "a test")


def run(command: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def credit_account(email: str, *arguments: str) -> str:
    return run("credit_account", "--account", email, *arguments)


@pytest.mark.parametrize("command", ["credit_account", "set_price", "check_books"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command(command, "--help")

    assert ended.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.django_db
class TestCreditAccount:
    def test_it_credits_and_tells_the_new_balance(self) -> None:
        account, email = people.customer("alice")

        out = credit_account(email, "--usd", "10.25", "--reason", "sorry for the trouble")

        assert "Balance 10.25 USD, of which available 10.25 USD." in out
        transfer = Transfer.objects.get(wallet=account.pk)
        assert (transfer.kind, transfer.debit, transfer.reason) == (
            "adjustment",
            "adjustments",
            "sorry for the trouble",
        )
        assert CreditLot.objects.get(wallet=account.pk).kind == "promotional"

    def test_each_run_credits_again(self) -> None:
        account, email = people.customer("alice")

        credit_account(email, *CREDIT)
        credit_account(email, *CREDIT)

        assert Wallet.objects.get(pk=account.pk).posted == 20 * money.PICO_PER_USD

    def test_the_same_cause_credits_once(self) -> None:
        account, email = people.customer("alice")
        cause = factories.unique("campaign")

        first = credit_account(email, *CREDIT, "--cause", cause)
        again = credit_account(email, *CREDIT, "--cause", cause)

        assert first.startswith("Credited 10 USD")
        assert again.startswith("This cause had already credited 10 USD")
        assert Wallet.objects.get(pk=account.pk).posted == 10 * money.PICO_PER_USD

    def test_a_cause_of_another_customer_is_refused(self) -> None:
        _, alice = people.customer("alice")
        _, charlie = people.customer("charlie")
        cause = factories.unique("campaign")
        credit_account(alice, *CREDIT, "--cause", cause)

        with pytest.raises(CommandError, match="already used for another account or amount"):
            credit_account(charlie, *CREDIT, "--cause", cause)

    @pytest.mark.parametrize(
        ("usd", "sentence"),
        [
            ("0", "positive amount"),
            ("-5", "positive amount"),
            ("ten", "is not an amount"),
            ("", "is not an amount"),
            ("NaN", "is not an amount"),
            ("1e999", "is not an amount"),
            ("0.0000000000001", "too precise"),
            ("99999999999", "is not an amount that can be held"),
        ],
    )
    def test_what_is_no_amount_is_refused(self, usd: str, sentence: str) -> None:
        account, email = people.customer("alice")

        with pytest.raises(CommandError, match=sentence):
            credit_account(email, f"--usd={usd}", "--reason", "a test")

        assert not Transfer.objects.filter(wallet=account.pk).exists()

    def test_more_than_a_wallet_can_hold_is_refused(self) -> None:
        _, email = people.customer("alice")
        credit_account(email, "--usd", "9000000", "--reason", "a test")

        with pytest.raises(CommandError, match="A wallet holds at most"):
            credit_account(email, "--usd", "9000000", "--reason", "a test")

    @pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
    def test_a_reason_is_needed(self, reason: str) -> None:
        _, email = people.customer("alice")

        with pytest.raises(CommandError, match="needs a reason"):
            credit_account(email, "--usd", "10", "--reason", reason)

    @pytest.mark.parametrize("cause", ["", "x" * 151])
    def test_a_cause_that_cannot_be_used_is_refused(self, cause: str) -> None:
        _, email = people.customer("alice")

        with pytest.raises(CommandError, match="has 1 to 150 characters"):
            credit_account(email, *CREDIT, "--cause", cause)

    def test_an_unknown_account_is_refused(self) -> None:
        with pytest.raises(CommandError, match=r"No account is owned by nobody@example\.test"):
            credit_account("nobody@example.test", *CREDIT)


@pytest.mark.django_db
class TestSetPrice:
    def test_it_supersedes_the_list_price(self) -> None:
        model = factories.price().model

        out = run("set_price", model.public_id, "--input", "0.14", "--output", "0.28", "--cached-input", "0.028")

        version = PriceVersion.objects.get(model=model, ends_at=None)
        assert price_list.rates_of(version.rates.all()) == {"input": 140_000, "output": 280_000, "cached_input": 28_000}
        assert PriceVersion.objects.get(model=model, ends_at__isnull=False).ends_at == version.starts_at
        assert "input 0.14" in out
        assert f"from {version.starts_at:%Y-%m-%d %H:%M:%S} UTC" in out

    def test_without_a_cached_price_the_input_price_counts(self) -> None:
        model = factories.language_model()

        run("set_price", model.public_id, "--input", "1", "--output", "2")

        version = PriceVersion.objects.get(model=model)
        assert price_list.rates_of(version.rates.all())["cached_input"] == 1_000_000

    def test_a_contract_price_is_for_one_customer(self) -> None:
        account, email = people.customer("alice")
        model = factories.price().model

        run("set_price", model.public_id, "--input", "1", "--output", "2", "--account", email)

        assert PriceVersion.objects.get(model=model, account=account).ends_at is None
        assert PriceVersion.objects.get(model=model, account=None).ends_at is None

    @pytest.mark.parametrize(
        ("text", "starts_at"),
        [
            (f"{NEXT_QUARTER:%Y-%m-%d}", NEXT_QUARTER),
            (f"{NEXT_QUARTER:%Y-%m-%d}T08:30:00", NEXT_QUARTER + timedelta(hours=8, minutes=30)),
            (f"{NEXT_QUARTER:%Y-%m-%d}T08:30:00Z", NEXT_QUARTER + timedelta(hours=8, minutes=30)),
            (f"{NEXT_QUARTER:%Y-%m-%d}T08:30:00+02:00", NEXT_QUARTER + timedelta(hours=6, minutes=30)),
        ],
    )
    def test_a_time_without_a_zone_is_utc(self, text: str, starts_at: datetime) -> None:
        model = factories.language_model()

        run("set_price", model.public_id, "--input", "1", "--output", "2", "--from", text)

        assert PriceVersion.objects.get(model=model).starts_at == starts_at

    @pytest.mark.parametrize(
        "text", ["soon", "", "2099-13-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"]
    )
    def test_what_is_no_time_is_refused(self, text: str) -> None:
        with pytest.raises(CommandError, match="is not a time"):
            run("set_price", factories.language_model().public_id, "--input", "1", "--output", "2", "--from", text)

    def test_the_past_is_refused(self) -> None:
        past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()

        with pytest.raises(CommandError, match="at least 5 s from now"):
            run("set_price", factories.price().model.public_id, "--input", "1", "--output", "2", "--from", past)

    @pytest.mark.parametrize(
        ("price", "sentence"),
        [
            ("0", "more than zero"),
            ("-1", "more than zero"),
            ("free", "is not an amount"),
            ("inf", "is not an amount"),
            ("0.0000001", "at most 6 decimals"),
        ],
    )
    @pytest.mark.parametrize("option", ["--input", "--output", "--cached-input"])
    def test_what_is_no_price_is_refused(self, option: str, price: str, sentence: str) -> None:
        prices = {"--input": "1", "--output": "2", option: price}
        model = factories.language_model()

        with pytest.raises(CommandError, match=sentence):
            run("set_price", model.public_id, *(f"{name}={text}" for name, text in prices.items()))

        assert not PriceVersion.objects.filter(model=model).exists()

    def test_an_unknown_model_names_the_known_ones(self) -> None:
        with pytest.raises(CommandError, match=r"Unknown models: gpt-none\. The catalogue has: .*deepseek-v4-flash"):
            run("set_price", "gpt-none", "--input", "1", "--output", "2")

    def test_an_unknown_account_is_refused(self) -> None:
        model = factories.language_model().public_id

        with pytest.raises(CommandError, match=r"No account is owned by nobody@example\.test"):
            run("set_price", model, "--input", "1", "--output", "2", "--account", "nobody@example.test")


@pytest.mark.usefixtures("committed")
class TestCheckBooks:
    def test_sound_books_are_a_table_without_broken_promises(self) -> None:
        factories.funded(5)

        lines = run("check_books").splitlines()

        assert [line.split()[0] for line in lines] == ["promise", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9"]
        assert all(line.split()[-2] == "0" for line in lines[1:])

    def test_a_program_reads_the_same_as_json(self) -> None:
        findings = json.loads(run("check_books", "--full", "--json"))

        assert [finding["promise"] for finding in findings] == [f"P{number}" for number in range(1, 10)]
        assert all(finding["broken"] == 0 for finding in findings)

    def test_broken_books_end_with_1_and_show_what_is_broken(self) -> None:
        account = factories.funded(5)
        wallet = Wallet.objects.filter(pk=account.pk)
        out = io.StringIO()
        wallet.update(held=F("held") + 3)
        try:
            with pytest.raises(CommandError, match=r"The books are broken: P2\.") as refused:
                call_command("check_books", stdout=out)
        finally:
            wallet.update(held=F("held") - 3)

        assert refused.value.returncode == 1
        assert f"P2: account_id={account.pk}, held=3, open_holds=0" in out.getvalue()

    def test_examples_are_json_as_well(self) -> None:
        account = factories.funded(5)
        wallet = Wallet.objects.filter(pk=account.pk)
        out = io.StringIO()
        wallet.update(debt=F("debt") + 1)
        try:
            with pytest.raises(CommandError, match="P4"):
                call_command("check_books", "--full", "--json", stdout=out)
        finally:
            wallet.update(debt=F("debt") - 1)

        [finding] = [finding for finding in json.loads(out.getvalue()) if finding["broken"]]
        assert finding["examples"][0]["account_id"] == account.pk
