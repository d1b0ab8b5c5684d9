"""Plays one fault: load before, during and after it, its recovery, and at the end the judge's verdict."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import psycopg

from tests.chaos.client import Client, Customer
from tests.chaos.judge import Verdict, judge
from tests.chaos.ledger import Call, Ledger
from tests.chaos.load import Load, Shape
from tests.chaos.product import Gateway, Product
from tests.chaos.scene import Fault, Scene, Skipped

RECOVERED_CALLS = 20  # Successes in a row on each gateway.
RECOVERY_PATIENCE_SECONDS = 60.0
STREAMS_PATIENCE_SECONDS = 60.0
DRAIN_PATIENCE_SECONDS = 90.0  # The sweeper needs up to 40 s for the calls of a killed gateway.
SLOW_MACHINE = 3  # The short form's bounds of time are this many times as long: machines of CI are busy.


@dataclass
class Result:
    """What is known of a fault after it was played; the verdict comes last."""

    fault: Fault
    account_ids: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    verdict: Verdict | None = None
    seconds: float = 0.0  # It took, without the drain.
    normal_seconds: float | None = None  # What the recovery would take without a fault.
    normal_wait: float = 0.0
    recovery_seconds: float | None = None
    drain_seconds: float | None = None
    lag_seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.complaints) or (self.verdict is not None and not self.verdict.sound)

    @property
    def longest_wait(self) -> float:
        return _longest_wait(self.calls)

    def count(self, *ends: str) -> int:
        return sum(call.end in ends for call in self.calls)


class Runner:
    def __init__(self, product: Product, load: Load, ledger: Ledger, *, seed: int, short: bool) -> None:
        self._product, self._load, self._ledger = product, load, ledger
        self._seed, self._short = seed, short
        self._calm_seconds = 0.5 if short else 1.0

    def play(self, fault: Fault) -> Result:
        """Everything but the verdict."""
        begun = time.monotonic()
        scene = self._scene(fault)
        result = Result(fault, scene.cast.account_ids, complaints=scene.complaints, notes=scene.notes)
        gateways = self._product.gateways
        streaming_at = [self._product.one] if fault.streams_at_one else gateways
        self._load.begin(
            scene.client, scene.cast, scene.shape, gateways=gateways, streaming_at=streaming_at, dice=scene.dice
        )
        with Watch(self._product.postgres.url, result):
            try:
                time.sleep(self._calm_seconds)
                result.normal_seconds = self._recover(scene)
                result.normal_wait = _longest_wait(scene.calls)
                fault.strike(scene)
                result.recovery_seconds = self._recover(scene)
                time.sleep(self._calm_seconds)
            except Skipped as reason:
                result.skipped = str(reason)
            except Exception as error:  # The others shall still be played.
                scene.complaints.append(f"{type(error).__name__}: {error}")
            if not self._load.end(STREAMS_PATIENCE_SECONDS):
                scene.complaints.append(f"calls still run {STREAMS_PATIENCE_SECONDS:.0f} s after the load's end")
            for undo in scene.afterwards:
                undo()
        result.calls = scene.calls
        result.seconds = time.monotonic() - begun
        self._look_at_bounds(result)
        return result

    def close(self, result: Result) -> None:
        """Wait until nothing of the fault is open, and ask the judge."""
        with Watch(self._product.postgres.url, result):
            begun = time.monotonic()
            while self._open_of(result.account_ids) and time.monotonic() - begun < DRAIN_PATIENCE_SECONDS:
                time.sleep(0.1)
            result.drain_seconds = time.monotonic() - begun
        result.verdict = judge(
            self._product.postgres.url, self._product.journal, self._ledger.path, accounts=result.account_ids
        )

    def _scene(self, fault: Fault) -> Scene:
        return Scene(
            product=self._product,
            fault=fault.name,
            load=self._load,
            client=self._load.client(fault.name),
            ledger=self._ledger,
            cast=self._product.cast(),
            shape=self._shape(fault),
            dice=random.Random(f"{self._seed} {fault.name}"),
            short=self._short,
        )

    def _shape(self, fault: Fault) -> Shape:
        least, most = fault.tokens
        if self._short:
            return Shape(6, (least // 2, most // 2), questions_per_second=4, poor_burst=4)
        return Shape(20, (least, most), questions_per_second=10, poor_burst=8)

    def _recover(self, scene: Scene) -> float | None:
        """Seconds until every gateway has answered so many calls in a row; None if one never did."""
        begun = time.monotonic()
        probes = [
            self._load.start(_probe(scene.client, gateway, scene.cast.questions)) for gateway in self._product.gateways
        ]
        recovered = [probe.result() for probe in probes]
        return time.monotonic() - begun if all(recovered) else None

    def _look_at_bounds(self, result: Result) -> None:
        if result.skipped:
            return
        fault, slow = result.fault, SLOW_MACHINE if self._short else 1
        if result.recovery_seconds is None or result.normal_seconds is None:
            result.complaints.append("the gateways did not recover")
        elif result.recovery_seconds - result.normal_seconds > fault.recovers_in * slow:
            result.complaints.append(f"recovered after {result.recovery_seconds:.1f} s, not {fault.recovers_in:.0f} s")
        wait = result.longest_wait - result.normal_wait
        if fault.longest_wait is not None and wait > fault.longest_wait * slow:
            result.complaints.append(f"something took {wait:.1f} s longer than usual, not {fault.longest_wait} s")
        refused = [call for call in result.calls if call.status == 503]
        if fault.refuses and not refused:
            result.complaints.append("no call got 503")
        if any(call.retry_after is None for call in refused):
            result.complaints.append("a 503 came without Retry-After")
        strange = {call.status for call in result.calls if call.end == "refused" and call.code is None}
        if strange or any(call.status == 500 for call in result.calls):
            result.complaints.append(f"answers without an envelope, or 500: {sorted(map(str, strange))}")

    def _open_of(self, account_ids: list[int]) -> int:
        with psycopg.connect(self._product.postgres.url) as database:
            row = database.execute(_OPEN, [account_ids, account_ids]).fetchone()
        return int(row[0]) if row else 0


class Watch:
    """Measures the age of the oldest recorded call that is not settled, whenever the database answers."""

    def __init__(self, database_url: str, result: Result) -> None:
        self._database_url, self._result = database_url, result
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            try:
                with psycopg.connect(self._database_url, connect_timeout=2, autocommit=True) as database:
                    while not self._over.wait(0.5):
                        row = database.execute(_LAG, [self._result.account_ids]).fetchone()
                        self._result.lag_seconds = max(self._result.lag_seconds, row[0] if row else 0)
            except psycopg.Error:
                continue


def _longest_wait(calls: Iterable[Call]) -> float:
    return max((call.waited for call in calls if call.waited is not None), default=0.0)


async def _probe(client: Client, gateway: Gateway, customer: Customer) -> bool:
    """Whether one call after the other is answered before patience is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + RECOVERY_PATIENCE_SECONDS
    streak = 0
    while streak < RECOVERED_CALLS and clock() < deadline:
        call = await client.ask(gateway, customer)
        streak = streak + 1 if call.end == "done" else 0
        await asyncio.sleep(0.02)
    return streak >= RECOVERED_CALLS


_OPEN = """
SELECT (SELECT count(*) FROM billing_hold WHERE account_id = ANY(%s))
     + (SELECT count(*) FROM billing_usagerecord WHERE settled_at IS NULL AND account_id = ANY(%s))
"""

_LAG = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(recorded_at)), 0)::float
  FROM billing_usagerecord WHERE settled_at IS NULL AND account_id = ANY(%s)
"""
