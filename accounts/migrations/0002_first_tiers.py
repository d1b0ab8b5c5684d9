"""The published Standard tier, and an Enterprise tier to start a contract from."""

from django.db import migrations


def create_tiers(apps, schema_editor):
    Tier = apps.get_model("accounts", "Tier")
    Tier.objects.create(name="Standard", requests_per_minute=60, tokens_per_minute=100_000, concurrent_requests=5)
    Tier.objects.create(
        name="Enterprise", requests_per_minute=6_000, tokens_per_minute=20_000_000, concurrent_requests=500
    )


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [migrations.RunPython(create_tiers, migrations.RunPython.noop)]
