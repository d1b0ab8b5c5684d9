"""Faults of an inference backend: gone, resetting, refusing, hanging, babbling, lying, nameless, or not who it says."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos import tls
from tests.chaos.ledger import Call
from tests.chaos.product import UNSERVED_MODELS, Gateway
from tests.chaos.scene import PATIENCE_SECONDS, Fault, Scene, store_of

Control = dict[str, Any]

BREAKERS = "gateway:breakers"  # In Redis.
# A mended backend comes back by a probe: at the next round, or after a pause that grows while it fails.
FOUND_AGAIN_SECONDS, OURS_SECONDS = 20.0, 45.0

GARBAGE: tuple[Control, ...] = (
    {"garbage": "json"},
    {"garbage": "html"},
    {"garbage": "sse"},
    {"garbage": "half_utf8"},
    {"garbage": "empty"},
    {"garbage": "other_kind"},
    {"no_done": True, "no_finish": True},
    {"split": 1, "crlf": True, "comments_between": True},
    {"error_after": 5},
)
LIES: tuple[Control, ...] = (
    {"usage_completion": "-5"},
    {"usage_completion": "1000000000000"},
    {"usage_completion": "inf"},
    {"usage_prompt": "nan"},
    {"usage_prompt": "null", "usage_completion": "seven"},
    {"usage_cached": "999999999"},
    {"no_usage": True},
    {"usage_null": True},
    {"usage_at": "every", "usage_completion": "99999999999999999999"},
)


def gone(scene: Scene) -> None:
    """Its process is killed in mid-stream, stays away, and comes back."""
    scene.product.kill_backend()
    scene.hold(full=5, short=1.5)
    scene.product.start_backend()


def killed_again_and_again(scene: Scene) -> None:
    """Killed in mid-stream and started at once, several times."""
    for _ in range(scene.size(full=8, short=2)):
        scene.product.kill_backend()
        scene.product.start_backend()
        time.sleep(scene.dice.uniform(0.5, 2))


def resets(scene: Scene) -> None:
    """Resets connections before, at, and after the first token."""
    _one_after_the_other(scene, [{"close_before": True}, *({"cut_after": at, "cut": "rst"} for at in (0, 1, 15))])


def breaks_off(scene: Scene) -> None:
    """Ends its answers too early, properly or not."""
    _one_after_the_other(scene, [{"cut_after": 8, "cut": "fin"}, {"cut_after": 8, "cut": "eof"}])


def refuses(scene: Scene) -> None:
    """500, 503, 404, 400, 429 with Retry-After and 401, after which it is left alone for half a minute."""
    statuses: list[Control] = [{"status": status} for status in (500, 503, 404, 400)]
    _one_after_the_other(scene, [*statuses, {"status": 429, "retry_after": "7"}, {"status": 401}])


def hangs_before_the_first_token(scene: Scene) -> None:
    _one_after_the_other(scene, [{"hang_before": True}], full=8, short=2)


def hangs_after_some_tokens(scene: Scene) -> None:
    _one_after_the_other(scene, [{"hang_after": 5}], full=8, short=2)


def babbles(scene: Scene) -> None:
    """Broken JSON, HTML, half letters, nothing, the other kind, no end."""
    _one_after_the_other(scene, GARBAGE, short=0.5)


def lies_about_usage(scene: Scene) -> None:
    """Negative, absurd, infinite or no usage."""
    _one_after_the_other(scene, LIES, short=0.5)


def sends_a_huge_event(scene: Scene) -> None:
    """One event of 1 MB, which is passed on, and of 10 MB, which is not."""
    _one_after_the_other(scene, [{"long_line": 2**20}, {"long_line": 10 * 2**20}], full=3, short=1)


def has_no_name(scene: Scene) -> None:
    """A backend whose name does not resolve; beside a healthy one nobody notices it."""
    alone, beside = UNSERVED_MODELS[0], "glm-5"
    _route(scene, "nameless", "http://no-such-host.invalid/v1", [alone, beside])
    refused = _ask_until_tried(scene, scene.one, alone, "nameless")
    served = [scene.ask(gateway, model=beside) for gateway in scene.product.gateways for _ in range(10)]
    scene.expect(refused.code == "model_unavailable", f"a nameless backend: {refused.status} {refused.code}")
    scene.expect(all(call.end == "done" for call in served), "a nameless backend beside a healthy one is noticed")


def has_a_bad_certificate(scene: Scene) -> None:
    """Behind TLS with a good certificate, an expired one, and one that nobody knows: only the first is spoken to."""
    folder = Path(scene.product.environment["FLINT_DATA"]) / "certificates"
    authority, stranger = tls.Authority(folder / "known"), tls.Authority(folder / "stranger")
    certificates = {
        "good": authority.certificate(days=1),
        "expired": authority.certificate(days=-1),
        "unknown": stranger.certificate(days=1),
    }
    codes = {}
    # Without breakers: what the workers find, who do not trust that authority, is not the matter here.
    trusting = {"SSL_CERT_FILE": str(authority.path), "GATEWAY_BREAKER_SECONDS": "0"}
    with scene.product.spare_gateway("trusting", trusting) as spare:
        spare.wait_until_ready()
        for model, (name, certificate) in zip(UNSERVED_MODELS, certificates.items(), strict=True):
            with tls.front(scene.load, certificate, scene.product.backend) as port:
                _route(scene, f"tls-{name}", f"https://127.0.0.1:{port}/v1", [model])
                codes[name] = _ask_until_tried(scene, spare, model, f"tls-{name}").code
    wanted = {"good": None, "expired": "model_unavailable", "unknown": "model_unavailable"}
    scene.expect(codes == wanted, f"certificates are judged wrongly: {codes}")


def _one_after_the_other(scene: Scene, controls: Sequence[Control], *, full: float = 2, short: float = 0.8) -> None:
    """Every call of the backend is spoilt in this way, then in the next, which meets closed breakers again."""
    try:
        for control in controls:
            with store_of(scene.product.limits) as store:
                store.delete(BREAKERS)
            _control(scene, control)
            scene.hold(full=full, short=short)
    finally:
        _control(scene, None)


def _control(scene: Scene, words: Control | None) -> None:
    url = f"{scene.product.backend.base_url.removesuffix('/v1')}/control"
    body = None if words is None else json.dumps(words).encode()
    request = urllib.request.Request(url, body, method="DELETE" if words is None else "PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


def _route(scene: Scene, name: str, url: str, models: list[str]) -> None:
    """As an operator does it."""
    scene.product.run("manage.py", "add_backend", name, url, "--api-key", "", "--models", ",".join(models))


def _ask_until_tried(scene: Scene, gateway: Gateway, model: str, backend: str) -> Call:
    """The answer once the gateway knows of the new route: it serves, or its log names the backend that failed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        call = scene.ask(gateway, model=model)
        if call.end == "done" or f": {backend}: " in gateway.log_text() or time.monotonic() > deadline:
            return call
        time.sleep(0.2)


FAULTS = (
    Fault("backend-gone", "killed in mid-stream, back later", gone, FOUND_AGAIN_SECONDS, refuses=True),
    Fault("backend-flaps", "killed and started in mid-stream", killed_again_and_again, FOUND_AGAIN_SECONDS),
    Fault("backend-resets", "RST before and in the answer", resets, FOUND_AGAIN_SECONDS, refuses=True),
    Fault("backend-breaks-off", "ends its answers too early", breaks_off, FOUND_AGAIN_SECONDS),
    Fault("backend-refuses", "5xx, 404, 400, 429, 401", refuses, OURS_SECONDS, refuses=True),
    Fault(
        "backend-hangs", "hangs before the first token", hangs_before_the_first_token, FOUND_AGAIN_SECONDS, refuses=True
    ),
    Fault("backend-stalls", "hangs after five tokens", hangs_after_some_tokens, FOUND_AGAIN_SECONDS),
    Fault("backend-babbles", "malformed answers", babbles, FOUND_AGAIN_SECONDS, refuses=True),
    Fault("backend-lies", "absurd usage", lies_about_usage, FOUND_AGAIN_SECONDS),
    Fault("backend-huge-event", "one event of 1 MB, of 10 MB", sends_a_huge_event, FOUND_AGAIN_SECONDS),
    Fault("backend-nameless", "its name does not resolve", has_no_name, refuses=True),
    Fault("backend-tls", "expired and unknown certificates", has_a_bad_certificate, refuses=True),
)
