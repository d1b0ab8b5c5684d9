"""The mails that the sandbox sent, for a laptop without a mail server: one file each (`mail_files`)."""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

SHOWN = 30
_CODE = re.compile(r"^[A-Z0-9]{3,6}(-[A-Z0-9]{3,6})*$", re.MULTILINE)
_LINK = re.compile(r"^https?://\S+$", re.MULTILINE)


@dataclass
class Mail:
    name: str
    to: str
    subject: str
    at: datetime
    text: str
    attached: list[str]
    code: str = ""
    link: str = ""


@require_safe
@never_cache
def mailbox(request: HttpRequest) -> HttpResponse:
    """The newest mails; a page that is open asks for the list alone, and gets nothing while it has the newest."""
    mails = _newest()
    newest = mails[0].name if mails else ""
    if request.GET.get("after") == newest:
        return HttpResponse(status=204)
    template = "sandbox/_mails.html" if "after" in request.GET else "sandbox/mailbox.html"
    return render(request, template, {"mails": mails, "newest": newest})


def _newest() -> list[Mail]:
    folder = getattr(settings, "EMAIL_FILE_PATH", None)  # None: mails go to a server.
    files = sorted(Path(folder).glob("*.eml"), key=lambda path: path.stat().st_mtime_ns) if folder else []
    return [_read(path) for path in files[: -SHOWN - 1 : -1]]


def _read(path: Path) -> Mail:
    message = email.message_from_bytes(path.read_bytes(), EmailMessage, policy=policy.default)
    body = message.get_body(("plain",))
    text = body.get_content().replace("\r\n", "\n") if body is not None else ""
    found = {"code": _CODE.search(text), "link": _LINK.search(text)}
    return Mail(
        name=path.name,
        to=str(message["To"]),
        subject=str(message["Subject"]),
        at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        text=text,
        attached=[part.get_filename() or "without a name" for part in message.iter_attachments()],
        **{name: match[0] for name, match in found.items() if match},
    )
