"""A real process of the Stripe simulator, and what a test wants to do to it over a socket."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import stripe

KEY = "sk_sim_of_the_tests"
SECRET = "whsec_of_the_tests"
FORM = "application/x-www-form-urlencoded"


class StripeSimulator:
    """Listens once the constructor returns."""

    def __init__(self, data: Path, *, webhook_url: str = "", key: str = KEY, secret: str = SECRET) -> None:
        self.data, self.webhook_url, self.key, self.secret = data, webhook_url, key, secret
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        command = [sys.executable, "-m", "flint.sandbox.stripe_simulator", "--port", str(self.port)]
        command += ["--data", str(self.data), "--webhook-url", self.webhook_url]
        keys = {"STRIPE_SECRET_KEY": self.key, "STRIPE_WEBHOOK_SECRETS": self.secret}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **keys})
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("stripe simulator: ").strip()
        port = urlsplit(self.url).port
        assert port is not None, "It did not start."
        self.port = port

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(15)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.stop()

    def client(self, *, key: str | None = None, retries: int = 0) -> stripe.StripeClient:
        return stripe.StripeClient(key or self.key, base_addresses={"api": self.url}, max_network_retries=retries)

    def ask(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str, str]:
        """Status, body, and where the answer sends us on to."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = None if form is None else urlencode(form)
            connection.request(method, path, body=body, headers={"Content-Type": FORM} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers.get("Location", "")
        finally:
            connection.close()

    def control(self, action: str, **fields: str) -> Any:
        """An action of the control page."""
        status, body, _ = self.ask("POST", f"/control/{action}", fields, Accept="application/json")
        assert status == 200, body
        return json.loads(body)

    def pays(self, session_id: str, action: str = "pay", **fields: str) -> str:
        """What the customer does on the Checkout page; the address they are sent on to."""
        status, body, address = self.ask("POST", f"/c/pay/{session_id}/{action}", fields)
        assert status in (200, 303), body
        return address
