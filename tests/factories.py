"""The smallest valid object of each kind. Amounts are pico-USD, and so small that a test can be done in the head.

What is made for `committed` tests stays in the database, so names and causes are new each time.
"""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import uuid_utils.compat as uuids
from django.db import connection

from accounts.models import Account, Tier, User
from apikeys.models import ApiKey
from billing import ledger, ledger_sql, pricing, vouchers
from billing.ledger import Ask
from billing.models import (
    AutoRecharge,
    CreditLot,
    Hold,
    KeyBudget,
    LanguageModel,
    LedgerAccount,
    PriceVersion,
    Transfer,
    TransferKind,
    UsageRecord,
    Voucher,
    Wallet,
)
from billing.usage import Outcome, Record, Source
from billing.vouchers import Terms
from gateway.models import Attempt

_numbers = itertools.count(1)


def unique(word: str) -> str:
    """A name that no other test, and no other process, has used."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def account(**fields: Any) -> Account:
    """An account with a key, whose secret nobody knows."""
    fields.setdefault("tier", Tier.objects.get(name="Standard"))
    made = Account.objects.create(**{"name": unique("account"), **fields})
    ApiKey.objects.create(account=made, name="a key", digest=os.urandom(32), display="tk-...")
    return made


def user() -> User:
    return User.objects.create_user(f"{unique('user')}@example.test")


def language_model(**fields: Any) -> LanguageModel:
    defaults = {"family": "Tests", "type": "chat", "context_tokens": 100_000, "max_output_tokens": 10_000}
    name = unique("model")
    return LanguageModel.objects.create(**{"public_id": name, "name": name, **defaults, **fields})


def attempt(model: LanguageModel, **fields: Any) -> Attempt:
    defaults = {"call_id": uuids.uuid7(), "number": 1, "backend": "gpu", "started_at": datetime.now(UTC)}
    what = {"result": Attempt.Result.OK, "duration_ms": 5, "input_tokens": 3, "output_tokens": 1, "estimated": False}
    return Attempt.objects.create(**{"model": model, **defaults, **what, **fields})


def price(model: LanguageModel | None = None, *, input: int = 2, output: int = 5, **fields: Any) -> PriceVersion:
    fields.setdefault("now", datetime.now(UTC))
    rates = {"input": input, "output": output}
    return pricing.set_price(model=model or language_model(), rates=rates, **fields)


def credit(to: Account, amount: int, **fields: Any) -> Transfer:
    """Paid money that never expires."""
    defaults = {
        "kind": TransferKind.ADJUSTMENT,
        "source": LedgerAccount.ADJUSTMENTS,
        "cause": unique("credit"),
        "now": datetime.now(UTC),
        "lot": CreditLot.Kind.PAID,
    }
    return ledger.credit(account=to, amount=amount, **{**defaults, **fields})


def promotion(to: Account, amount: int, *, expires_at: datetime | None, **fields: Any) -> Transfer:
    return credit(
        to,
        amount,
        kind=TransferKind.PROMOTION,
        source=LedgerAccount.PROMOTIONS,
        lot=CreditLot.Kind.PROMOTIONAL,
        expires_at=expires_at,
        **fields,
    )


def debit(of: Account, amount: int, **fields: Any) -> Transfer:
    defaults = {
        "kind": TransferKind.ADJUSTMENT,
        "target": LedgerAccount.ADJUSTMENTS,
        "cause": unique("debit"),
        "now": datetime.now(UTC),
    }
    return ledger.debit(account=of, amount=amount, **{**defaults, **fields})


def voucher(amount: int = 10, *, code: str = "", **terms: Any) -> Voucher:
    return vouchers.create(terms=Terms(amount, **terms), code=code, now=datetime.now(UTC))


def auto_recharge(of: Account, **fields: Any) -> AutoRecharge:
    """One that is on, without a card."""
    defaults = {
        "enabled": True, "threshold_cents": 1, "amount_cents": 500, "monthly_cap_cents": 500, "interval_minutes": 10,
        "consented_at": datetime.now(UTC),
    }  # fmt: skip
    by = fields.pop("consented_by", None) or of.users.first() or user()
    return AutoRecharge.objects.create(account=of, consented_by=by, **{**defaults, **fields})


def pay_back(of: Account, amount: int, **fields: Any) -> Transfer:
    """Money that went back to a card."""
    defaults = {
        "kind": TransferKind.REFUND,
        "target": LedgerAccount.SIMULATED_CLEARING,
        "cause": unique("refund"),
        "now": datetime.now(UTC),
    }
    return ledger.pay_back(account=of, amount=amount, **{**defaults, **fields})


def refund_hold(of: Account, amount: int, *, now: datetime | None = None) -> UUID:
    """The id of a refund for which so much is held."""
    refund = uuid4()
    ledger.hold_refund(id=refund, account=of, amount=amount, now=now or datetime.now(UTC))
    return refund


def funded(amount: int) -> Account:
    """An account with paid money."""
    made = account()
    credit(made, amount)
    return made


def call_id(moment: datetime) -> UUID:
    """A UUIDv7 of this moment."""
    noise = uuid4().int & ~(0xFFFF << 64) & ((1 << 80) - 1)
    return UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | noise & ((1 << 76) - 1))


def moment_of(call: UUID) -> datetime:
    return datetime.fromtimestamp((call.int >> 80) / 1000, UTC)


@lru_cache
def for_sale() -> tuple[int, int]:
    """A model of the catalogue and its list price."""
    version = PriceVersion.objects.get(model__public_id="deepseek-v4-flash", account=None, ends_at=None)
    return version.model_id, version.pk


def ask(of: Account | int, amount: int, *, admitted_at: datetime | None = None, **fields: Any) -> Ask:
    """A call that wants to be admitted now."""
    call = call_id(admitted_at or datetime.now(UTC))
    moment = moment_of(call)
    account_id = of if isinstance(of, int) else of.pk
    model_id, price_version_id = for_sale()
    defaults = {
        "id": call,
        "account_id": account_id,
        "api_key_id": ApiKey.objects.filter(account_id=account_id).values_list("pk", flat=True)[0],
        "model_id": model_id,
        "price_version_id": price_version_id,
        "amount": amount,
        "streamed": False,
        "owner": uuid4(),
        "admitted_at": moment,
        "lifetime_seconds": 720,
    }
    return Ask(**{**defaults, **fields})


def record(call: Ask, charge: int | None = None, **fields: Any) -> Record:
    """What the call used: by default all that was held for it."""
    defaults = {
        "id": call.id,
        "account_id": call.account_id,
        "api_key_id": call.api_key_id,
        "model_id": call.model_id,
        "price_version_id": call.price_version_id,
        "backend": "demo",
        "attempt": 1,
        "streamed": call.streamed,
        "outcome": Outcome.COMPLETED,
        "source": Source.BACKEND,
        "finish_reason": "stop",
        "admitted_at": call.admitted_at,
        "first_token_ms": None,
        "duration_ms": 5,
        "input_tokens": 3,
        "cached_input_tokens": 1,
        "output_tokens": 2,
        "reasoning_tokens": 0,
        "held": call.amount,
        "charge": call.amount if charge is None else charge,
        "clamped": False,
    }
    return Record(**{**defaults, **fields})


def held(call: Ask) -> Hold:
    """The call admitted as `ledger.reserve` would do it, on Django's connection: for tests that roll back."""
    wallet = Wallet.objects.get(pk=call.account_id)
    wallet.held += call.amount
    wallet.holds_opened += 1
    wallet.save(update_fields=["held", "holds_opened"])
    budget, left = _counted(call)
    return Hold.objects.create(
        id=call.id,
        account=wallet,
        api_key_id=call.api_key_id,
        model_id=call.model_id,
        price_version_id=call.price_version_id,
        amount=call.amount,
        available_after=wallet.available,
        budget=budget,
        budget_left_after=left,
        streamed=call.streamed,
        owner=call.owner,
        admitted_at=call.admitted_at,
        expires_at=datetime.now(UTC) + timedelta(seconds=call.lifetime_seconds),
    )


def _counted(call: Ask) -> tuple[KeyBudget | None, int | None]:
    """The open budget of a key with a cap, with this call in it, and what it has left."""
    key = ApiKey.objects.get(pk=call.api_key_id)
    if key.spend_cap is None:
        return None, None
    with connection.cursor() as cursor:
        cursor.execute(ledger_sql.OPEN_BUDGET, {"keys": [key.pk], "moment": call.admitted_at})
    budget = KeyBudget.objects.filter(line=key.line_id, period=key.spend_period).latest("starts_at")
    budget.held += call.amount
    budget.save(update_fields=["held"])
    return budget, key.spend_cap - budget.spent - budget.held


def recorded(of: Account, charge: int, *, amount: int | None = None, admitted_at: datetime | None = None) -> Ask:
    """A call held and recorded, on Django's connection: all that is left is to settle it."""
    call = ask(of, charge if amount is None else amount, admitted_at=admitted_at)
    held(call)
    fields = record(call, charge)
    UsageRecord.objects.create(**{name: getattr(fields, name) for name in fields.__struct_fields__})
    return call
