"""Where the mails of the sandbox go: a file each, in EMAIL_FILE_PATH.

Django's own backend names a file for the second and for the object that writes it, so that two mails of one second
may end in one file, where nobody can tell them apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend


class EmailBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        folder = Path(settings.EMAIL_FILE_PATH)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            name = f"{time.time_ns()}-{uuid4().hex}"
            # Whoever reads the folder sees whole mails only.
            written = folder / f"{name}.writing"
            written.write_bytes(message.message().as_bytes())
            written.rename(folder / f"{name}.eml")
        return len(email_messages)
