"""Makes the Celery app the current one wherever Django runs, so that every process can ring the doorbell."""

from django.apps import AppConfig


class FlintConfig(AppConfig):
    name = "flint"

    def ready(self) -> None:
        from flint import celery  # noqa: F401  # Importing it is what makes it current.
