"""Faults of what settles: workers, beat and the broker. Calls go on, the backlog is seen, and it drains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
from celery import Celery

from flint.sandbox.children import Child
from tests.chaos.scene import Fault, Scene, configured, frozen, store_of, wait_until

START_SECONDS = 90.0


def killed(scene: Scene) -> None:
    """Four workers (two in short); now a child is killed, now a worker with all its children, under load."""
    workers = scene.product.workers
    while len(workers) < scene.size(full=4, short=2):
        workers.append(scene.product.worker())
    for worker in workers:
        wait_until(worker.is_ready, f"{worker.name} is ready", START_SECONDS)
    kills = scene.size(full=60, short=5)
    whole = 0
    for number in range(kills):
        worker = scene.dice.choice(workers)
        if number % 3 == 2:
            worker.kill()
            worker.spawn()
            whole += 1
        else:
            _kill_child_of(worker, scene)
        time.sleep(scene.dice.uniform(0.5, 1.5))
    scene.note(f"{kills} kills, {whole} of whole workers")
    scene.afterwards.append(lambda: _dismiss(workers))


def _kill_child_of(worker: Child, scene: Scene) -> None:
    """A pool process; a worker that was just begun may have none yet."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(worker.pid).children()
        if children:
            scene.dice.choice(children).kill()


def _dismiss(workers: list[Child]) -> None:
    while len(workers) > 1:
        workers.pop().stop()


def tasks_delivered_often(scene: Scene) -> None:
    """The broker delivers the same task again and again, also to two workers at a time."""
    second = scene.product.worker()
    wait_until(second.is_ready, "the second worker is ready", START_SECONDS)
    with Celery(broker=scene.product.broker.url) as app:
        for _ in range(scene.size(full=200, short=50)):
            for _ in range(2):
                app.send_task("billing.tasks.settle_usage", kwargs={"account_ids": scene.cast.account_ids})
            app.send_task("billing.tasks.sweep_holds")
            time.sleep(0.04)
    second.stop()


def absent(scene: Scene) -> None:
    """No worker for minutes."""
    for worker in scene.product.workers:
        worker.stop()
    scene.hold(full=120, short=5)
    if not scene.short:
        _expect_lag_is_told(scene)
    for worker in scene.product.workers:
        worker.spawn()
    for worker in scene.product.workers:
        wait_until(worker.is_ready, f"{worker.name} is ready", START_SECONDS)


def beat_absent(scene: Scene) -> None:
    """Nobody rings for the sweeps; doorbells still ring."""
    scene.product.beat.kill()
    scene.hold(full=120, short=5)
    scene.product.beat.spawn()


def beat_twice(scene: Scene) -> None:
    """Two beats ring everything twice."""
    second = scene.product.start_beat("second-beat")
    scene.hold(full=15, short=5)
    second.stop()


def broker_absent(scene: Scene) -> None:
    """The broker is killed and stays away: no doorbell, no beat."""
    scene.product.broker.kill()
    scene.hold(full=120, short=5)
    scene.product.broker.start()


def broker_frozen(scene: Scene) -> None:
    """The broker keeps its connections and says nothing."""
    with frozen(scene.product.broker.pid):
        scene.hold(full=20, short=5)


def broker_forgets(scene: Scene) -> None:
    """FLUSHALL of the broker: all messages are gone."""
    with store_of(scene.product.broker) as store:
        for _ in range(scene.size(full=20, short=5)):
            store.flushall()
            time.sleep(0.2)


def broker_full(scene: Scene) -> None:
    """Not a byte is left for messages, and noeviction: workers end, and whoever supervises them starts them again."""
    with configured(scene.product.broker, "maxmemory", "1"):
        scene.hold(full=10, short=3)
    for child in (*scene.product.workers, scene.product.beat):
        if not child.is_alive():
            scene.note(f"{child.name} had ended")
            child.spawn()
            wait_until(child.is_ready, f"{child.name} is ready", START_SECONDS)


def _expect_lag_is_told(scene: Scene) -> None:
    """By the command for operators, and in the log of a gateway."""
    asked = subprocess.run(
        [sys.executable, "manage.py", "backlog"],
        env={**os.environ, **scene.product.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    scene.expect(asked.returncode == 1, f"`manage.py backlog` does not say that it is behind: {asked.stdout}")
    logs = [gateway.log_text() for gateway in scene.product.gateways]
    scene.expect(any("settlement is" in log for log in logs), "no gateway logs that settlement is behind")


FAULTS = (
    Fault("worker-killed", "kill -9 of workers and children", killed),
    Fault("tasks-repeated", "every task delivered often", tasks_delivered_often),
    Fault("worker-absent", "no worker for minutes", absent),
    Fault("beat-absent", "no beat for minutes", beat_absent),
    Fault("beat-twice", "two beats", beat_twice),
    Fault("broker-absent", "the broker killed, away for minutes", broker_absent),
    Fault("broker-frozen", "SIGSTOP of the broker", broker_frozen),
    Fault("broker-flushed", "FLUSHALL of the broker", broker_forgets),
    Fault("broker-full", "maxmemory and noeviction", broker_full),
)
