from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from billing import catalogue, pricing
from billing.models import LanguageModel, PriceVersion
from billing.pricing import Rates
from tests.billing import stage

pytestmark = pytest.mark.django_db

ENTRIES = json.loads(Path(catalogue.__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
FAMILIES = {"DeepSeek", "Qwen3.5", "Kimi K2", "GLM-5", "MiniMax M2", "Llama 3.3"}


def test_it_has_16_models_of_6_families() -> None:
    models = LanguageModel.objects.filter(public_id__in=[entry["id"] for entry in ENTRIES])
    assert (models.count(), set(models.values_list("family", flat=True))) == (16, FAMILIES)
    assert models.filter(public_id__in=["deepseek-v4-flash", "deepseek-v4-pro"]).count() == 2


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["id"] for entry in ENTRIES])
def test_every_model_is_as_the_file_says_and_costs_to_the_pico_dollar(entry: dict[str, str]) -> None:
    model = LanguageModel.objects.get(public_id=entry["id"])
    facts = (model.family, model.name, model.type, model.context_tokens, model.max_output_tokens, model.listed)
    assert facts == (*(entry[field] for field in ("family", "name", "type", "context", "max_output")), True)

    def pico_per_token(meter: str) -> Decimal:
        return Decimal(entry[meter]) / 10**6 * 10**12

    version = PriceVersion.objects.get(model=model, account=None)
    expected = Rates(
        0,
        input=int(pico_per_token("input")),
        cached_input=int(pico_per_token("cached_input" if entry["cached_input"] else "input")),
        output=int(pico_per_token("output")),
    )
    assert pricing.price_of(version.pk).bands == (expected,)
    # In dollars, as a customer would compute it from the published table.
    usage = pricing.Usage(1_234_567, 7_654_321, 234_567)
    cached = Decimal(entry["cached_input"] or entry["input"])
    dollars = 1_000_000 * Decimal(entry["input"]) + 234_567 * cached + 7_654_321 * Decimal(entry["output"])
    assert Decimal(pricing.price_of(version.pk).charge(usage)).scaleb(-12) == dollars / 10**6


def test_loading_again_adds_nothing_and_changes_nothing_that_an_operator_changed() -> None:
    LanguageModel.objects.filter(public_id="deepseek-v4-pro").update(name="Renamed", listed=False)
    prices = PriceVersion.objects.count()

    assert catalogue.load(now=datetime.now(UTC)) == 0

    model = LanguageModel.objects.get(public_id="deepseek-v4-pro")
    assert (model.name, model.listed, PriceVersion.objects.count()) == ("Renamed", False, prices)


def test_all_of_it_is_for_sale_now() -> None:
    schedule = stage.as_gateway(pricing.load_schedule)
    for model in LanguageModel.objects.filter(public_id__in=[entry["id"] for entry in ENTRIES]):
        assert schedule.in_force(model.pk, None, datetime.now(UTC)) is not None


def test_finding_names_every_model_that_is_missing() -> None:
    assert {model.public_id for model in catalogue.find(["glm-5", "glm-5"])} <= {"glm-5"}
    with pytest.raises(catalogue.UnknownModels, match="Unknown models: nope, nothing"):
        catalogue.find(["deepseek-v4-pro", "nothing", "nope"])
