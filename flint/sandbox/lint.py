"""Every static check, one after the other; `make lint` and CI run exactly this."""

import os
import subprocess
import sys
import time

from flint.sandbox import bootstrap

# Made-up settings: the checks look at them and connect to nothing.
SETTINGS = {
    "SECRET_KEY": "made-up-for-the-deployment-checks-0123456789-abcdefghijklmnop",
    "FLINT_CREDENTIAL_KEYS": "bWFkZS11cC1mb3ItdGhlLWRlcGxveW1lbnQtY2hlY2s=",
    "SITE_URL": "https://flint.example.test",
    "ALLOWED_HOSTS": "flint.example.test",
    "SUPPORT_EMAIL": "support@example.test",
    "EMAIL_HOST": "mail.example.test",
    "DEFAULT_FROM_EMAIL": "flint@example.test",
    "DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/1",
}
REFUSED_IN_PRODUCTION = ("FLINT_DATA", "DEBUG", bootstrap.STARTED_AT)

CHECKS = [
    ("ruff check", ["-m", "ruff", "check"]),
    ("ruff format", ["-m", "ruff", "format", "--check"]),
    # Its Django plugin imports the settings.
    ("mypy", ["-m", "mypy"]),
    ("import-linter", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]),
    # Without a database it cannot compare with what was applied, and warns; the models are what is checked.
    ("migrations", ["-W", "ignore::RuntimeWarning", "manage.py", "makemigrations", "--check", "--dry-run"]),
    ("deployment", ["manage.py", "check", "--deploy", "--fail-level", "WARNING"]),
]


def run() -> int:
    """0 when every check passes; what a failing one wrote is shown, and the others still run."""
    environment = {name: value for name, value in os.environ.items() if name not in REFUSED_IN_PRODUCTION} | SETTINGS
    failed = []
    for name, arguments in CHECKS:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=bootstrap.ROOT,
            env=environment | {"FLINT_ENV": "production" if name == "deployment" else "sandbox"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"{name:<16}{time.monotonic() - begun:5.1f} s  {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout, flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0
