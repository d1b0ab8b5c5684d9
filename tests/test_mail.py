"""Mails on their way through a real mail server, as the environment names it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from email.message import EmailMessage, Message

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Inbox

SERVER = {"EMAIL_HOST": "127.0.0.1", "EMAIL_USE_TLS": "false", "DEFAULT_FROM_EMAIL": "Flint <post@flint.example.test>"}


class Mails(Inbox):
    def __init__(self) -> None:
        super().__init__(EmailMessage)
        self.received: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.received.append(message)


def send(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "sendtestemail", "alice@example.test"],
        env={**os.environ, **SERVER, "EMAIL_PORT": str(port), "EMAIL_TIMEOUT": "5"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_mail_goes_to_the_server_that_the_environment_names() -> None:
    mails = Mails()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = Controller(mails, hostname="127.0.0.1", port=port)
    server.start()
    try:
        done = send(port)
    finally:
        server.stop()

    assert done.returncode == 0, done.stderr
    (mail,) = mails.received
    assert (mail["To"], mail["From"]) == ("alice@example.test", SERVER["DEFAULT_FROM_EMAIL"])
