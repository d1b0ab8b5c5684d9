"""The mailbox of the sandbox, over mails that its backend wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.core import mail
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(settings: object, tmp_path: Path) -> Path:
    path = tmp_path / "mail"
    settings.EMAIL_FILE_PATH = path  # type: ignore[attr-defined]
    return path


def send(folder: Path, subject: str, text: str, *, minute: int = 0, attached: str = "") -> None:
    known = set(folder.glob("*")) if folder.exists() else set()
    connection = mail.get_connection("flint.sandbox.mail_files.EmailBackend")
    message = mail.EmailMessage(subject, text, "us@example.test", ["you@example.test"], connection=connection)
    if attached:
        message.attach(attached, b"%PDF", "application/pdf")
    message.send()
    for path in set(folder.glob("*")) - known:
        os.utime(path, (1_700_000_000 + 60 * minute,) * 2)


def content(address: str = "/sandbox/mailbox/") -> str:
    return Client().get(address).content.decode()


def test_an_empty_one_says_how_to_get_a_mail() -> None:
    assert "No mail yet" in content()


def test_the_newest_comes_first(folder: Path) -> None:
    for minute in (2, 3, 1):
        send(folder, f"number {minute}", "text", minute=minute)
    page = content()
    assert page.index("number 3") < page.index("number 2") < page.index("number 1")


def test_mails_of_one_moment_stay_apart(folder: Path) -> None:
    for number in range(20):
        send(folder, f"number {number}", "text")

    assert content().count("<article") == 20


def test_it_names_what_is_attached(folder: Path) -> None:
    send(folder, "A receipt", "text", attached="receipt-7.pdf")
    assert "Attached: receipt-7.pdf" in content()


def test_it_shows_whom_it_went_to_and_all_of_the_text(folder: Path) -> None:
    send(folder, "Grüße", "Schöne Grüße\n" + "-" * 79 + "\nthe end")
    page = content()
    assert "you@example.test" in page
    assert "Grüße</h2>" in page
    assert "Schöne Grüße" in page
    assert "the end" in page


def test_a_code_and_a_link_are_at_hand(folder: Path) -> None:
    send(folder, "code", "The code:\n\nBCDF-GHJK\n\nBye")
    send(folder, "link", "Here:\n\nhttp://127.0.0.1:8000/a/?b=c\n\nBye", minute=1)
    page = content()
    assert 'value="BCDF-GHJK"' in page
    assert '<a class="button" href="http://127.0.0.1:8000/a/?b=c">Open the link</a>' in page


def test_what_strangers_wrote_is_shown_and_not_run(folder: Path) -> None:
    send(folder, "<script>alert(1)</script>", '<img src=x onerror=alert(1)>\njavascript:alert(1)\nhttp://x/"><b>')
    page = content()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert 'href="javascript' not in page


def test_an_open_page_gets_the_list_only_when_something_came(folder: Path) -> None:
    send(folder, "first", "text")
    newest = next(folder.glob("*")).name
    assert Client().get(f"/sandbox/mailbox/?after={newest}").status_code == 204
    send(folder, "second", "text", minute=1)
    page = content(f"/sandbox/mailbox/?after={newest}")
    assert "second" in page
    assert "<html" not in page


def test_nothing_keeps_the_page() -> None:
    assert "no-store" in Client().get("/sandbox/mailbox/")["Cache-Control"]
