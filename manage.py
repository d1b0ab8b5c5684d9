"""Django's command line."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flint.settings")
    try:
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit(
            "Django is not installed for this Python. Run `make run` (or `python3 -m flint.sandbox setup`) "
            "once, then use `.venv/bin/python manage.py ...`."
        )
    try:
        _ = settings.INSTALLED_APPS  # The first look reads the environment.
    except ImproperlyConfigured as faults:
        sys.exit(str(faults))
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
