"""Faults of a gateway process: killed, stopped, frozen, cut off from the database, out of descriptors, log or time."""

from __future__ import annotations

import concurrent.futures
import resource
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg

from flint.sandbox.programs import FAKETIME
from tests.chaos.product import Gateway
from tests.chaos.scene import Fault, Scene, Skipped, frozen, wait_until

SILENT_SECONDS = 10  # Without a heartbeat for this long a process admits nothing.
LEASE_SECONDS = 30  # Of a call whose process is dead.
NARROW_CALLS = 4  # As in prepare.
DRAIN_SECONDS = 2


def killed(scene: Scene) -> None:
    """kill -9 of a gateway with all streams running, again and again."""
    kills = scene.size(full=30, short=2)
    for number in range(1, kills + 1):
        scene.wait_for_streams(scene.shape.streams, scene.one)
        if number == kills and not scene.short:
            _occupy_narrow_account(scene)
        time.sleep(scene.dice.uniform(0.2, 2.5))
        scene.one.web.kill()
        scene.one.start()
        scene.one.wait_until_ready()
    scene.note(f"{kills} kills")
    if not scene.short:
        _see_limits_recover(scene)


def stopped(scene: Scene) -> None:
    """SIGTERM with streams running: they finish, and nothing new is begun."""
    running = scene.start_streams(scene.size(full=20, short=8), scene.one, tokens=100)
    wait_until(lambda: len(scene.streaming(scene.one)) >= len(running), "the streams run")
    code = scene.one.web.stop()
    scene.one.start()
    scene.one.wait_until_ready()
    finished = sum(call.result().end == "done" for call in running)
    scene.note(f"{finished} of {len(running)} streams finished, exit code {code}")
    scene.expect(finished == len(running), "a graceful stop cut streams")
    scene.expect(code in (0, -signal.SIGTERM), f"exit code {code}")


def stopped_while_streams_outlast_the_drain(scene: Scene) -> None:
    """SIGTERM with streams longer than the drain: they end with a word, their records are written."""
    with scene.product.spare_gateway("drained", {"FLINT_DRAIN_SECONDS": str(DRAIN_SECONDS)}) as spare:
        spare.wait_until_ready()
        running = scene.start_streams(10, spare, tokens=1_500)
        wait_until(lambda: len(scene.streaming(spare)) >= len(running), "the streams run")
        begun = time.monotonic()
        code = spare.web.stop()
        seconds = time.monotonic() - begun
    ended = [call.result() for call in running]
    told = sum(call.end == "error" for call in ended)
    ids = [call.call_id for call in ended]
    recorded = scene.sql("SELECT count(*) FROM billing_usagerecord WHERE id = ANY(%s::uuid[]) AND charge > 0", [ids])
    scene.note(f"{told} of {len(ended)} told, stopped in {seconds:.1f} s")
    scene.expect(told == len(ended), "a stream that outlasted the drain was not told so")
    scene.expect(recorded[0][0] == len(ended), "a stream that outlasted the drain has no record at the exit")
    scene.expect(code in (0, -signal.SIGTERM), f"exit code {code}")


def frozen_for_a_moment(scene: Scene) -> None:
    """The event loop stands still for 5 s: nobody may think it dead."""
    with frozen(scene.two.pid):
        scene.hold(full=5, short=2)


def frozen_for_long(scene: Scene) -> None:
    """Frozen for so long that a sweeper may call it dead; then it goes on as if nothing had been."""
    with frozen(scene.two.pid):
        scene.hold(full=25, short=3)


def cut_off_from_the_database(scene: Scene) -> None:
    """The way to the database hangs while the process and its customers live on."""
    proxy = scene.product.database_proxy
    proxy.hang()
    try:
        scene.hold(full=25, short=SILENT_SECONDS + 3)
    finally:
        proxy.restore()


def heartbeat_locked(scene: Scene) -> None:
    """Everything but the heartbeat can be written: whoever may soon be called dead admits nothing."""
    with psycopg.connect(scene.product.postgres.url) as database:
        database.execute("LOCK TABLE billing_gatewayprocess IN EXCLUSIVE MODE")
        begun_at = time.time()
        scene.hold(full=25, short=SILENT_SECONDS + 5)
        healed_at = time.time()
    early = scene.calls_sent_in(begun_at, begun_at + SILENT_SECONDS / 2)
    silent = scene.calls_sent_in(begun_at + SILENT_SECONDS + 1, healed_at)
    admitted = sum(call.status == 200 for call in silent)
    scene.note(
        f"{sum(call.status == 200 for call in early)} calls admitted at first, {admitted} of {len(silent)} later"
    )
    scene.expect(not admitted, "calls were admitted without a heartbeat")


def out_of_descriptors(scene: Scene) -> None:
    """128 descriptors and 200 connections: it may refuse, and serves again when they are gone."""
    with scene.product.spare_gateway("few-files") as spare, ExitStack() as sockets:
        spare.wait_until_ready()
        resource.prlimit(spare.pid, resource.RLIMIT_NOFILE, (128, 128))
        port = int(spare.url.rpartition(":")[2])
        for _ in range(200):
            with suppress(OSError):
                sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=2))
        asked = [scene.load.start(scene.client.ask(spare, scene.cast.questions)) for _ in range(10)]
        scene.hold(full=5, short=2)
        sockets.close()
        concurrent.futures.wait(asked)
        scene.note(f"{sum(call.result().end == 'done' for call in asked)} of 10 calls answered meanwhile")
        seconds = wait_until(lambda: scene.ask(spare).end == "done", "it serves again")
        scene.note(f"served again after {seconds:.1f} s")


def log_disk_full(scene: Scene) -> None:
    """Nothing that it logs can be written."""
    with scene.product.spare_gateway("mute", logs=Path("/dev/full")) as spare:
        spare.wait_until_ready()
        warned = [scene.ask(spare, marker="status=500") for _ in range(5)]
        asked = [scene.ask(spare) for _ in range(20)]
        streamed = [call.result() for call in scene.start_streams(5, spare, tokens=20)]
        code = spare.web.stop()
    scene.expect(all(call.end == "done" for call in asked + streamed), "calls fail where the log is full")
    scene.expect({call.code for call in warned} == {"model_unavailable"}, "errors differ where the log is full")
    scene.note(f"exit code {code}")


def clock_ahead(scene: Scene) -> None:
    """A host whose clock is an hour ahead."""
    _with_clock(scene, "+1h")


def clock_behind(scene: Scene) -> None:
    """A host whose clock is an hour behind."""
    _with_clock(scene, "-1h")


def _with_clock(scene: Scene, off: str) -> None:
    program = FAKETIME.path
    if program is None:
        raise Skipped(FAKETIME.missing)
    told = subprocess.run([program, "-m", "-f", off, "/usr/bin/env"], capture_output=True, text=True, check=True).stdout
    lines = dict(line.partition("=")[::2] for line in told.splitlines())
    # Timers stay those of the host: only the clock on the wall is wrong.
    environment = {name: lines[name] for name in ("LD_PRELOAD", "FAKETIME")} | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with scene.product.spare_gateway("wrong-clock", environment) as spare:
        wait_until(lambda: _serves_models(spare), "it has started")
        asked = [scene.ask(spare) for _ in range(10)]
    scene.note(f"{sum(call.status == 503 for call in asked)} of 10 calls refused")
    scene.expect(all(call.status == 503 and call.retry_after for call in asked), "admitted by a wrong clock")


def _serves_models(gateway: Gateway) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 1) as asking:
        asking.sendall(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return asking.recv(100).startswith(b"HTTP/1.1 200")
    return False


def _occupy_narrow_account(scene: Scene) -> None:
    """As many calls as it may have, which die with the gateway."""
    scene.start_streams(NARROW_CALLS, scene.one, scene.cast.narrow, tokens=600)
    narrow = scene.cast.narrow.account_id
    wait_until(
        lambda: sum(call.account_id == narrow for call in scene.streaming(scene.one)) == NARROW_CALLS,
        "the narrow account's streams run",
    )


def _see_limits_recover(scene: Scene) -> None:
    def all_admitted() -> bool:
        calls = scene.start_streams(NARROW_CALLS, scene.two, scene.cast.narrow, tokens=5)
        return all(call.result().status == 200 for call in calls)

    seconds = wait_until(all_admitted, "a dead process's leases are free", LEASE_SECONDS + 15)
    scene.note(f"limits free again after {seconds:.0f} s")


FAULTS = (
    Fault("gateway-killed", "kill -9 with all streams running", killed, streams_at_one=True, tokens=(150, 300)),
    Fault("gateway-stopped", "SIGTERM with streams running", stopped),
    Fault("gateway-drained", "SIGTERM, streams outlast the drain", stopped_while_streams_outlast_the_drain),
    Fault("gateway-stalled", "SIGSTOP for 5 s", frozen_for_a_moment),
    Fault("gateway-frozen", "SIGSTOP for 25 s, then on", frozen_for_long),
    Fault("gateway-cut-off", "its way to PostgreSQL hangs 25 s", cut_off_from_the_database, refuses=True),
    Fault("heartbeat-locked", "only its heartbeat cannot be written", heartbeat_locked, refuses=True),
    Fault("gateway-few-files", "128 descriptors, 200 connections", out_of_descriptors),
    Fault("gateway-log-full", "stdout and stderr are /dev/full", log_disk_full),
    Fault("clock-ahead", "a host one hour ahead", clock_ahead, refuses=True),
    Fault("clock-behind", "a host one hour behind", clock_behind, refuses=True),
)
