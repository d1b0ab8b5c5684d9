"""Keys that were rotated before there were lines belong to the line of their first key."""

from django.db import migrations

FILL = """
WITH RECURSIVE line (id, first_id) AS (
    SELECT key.id, key.replaces_id
      FROM apikeys_apikey key JOIN apikeys_apikey before ON before.id = key.replaces_id
     WHERE before.replaces_id IS NULL
    UNION ALL
    SELECT key.id, line.first_id FROM apikeys_apikey key JOIN line ON line.id = key.replaces_id
)
UPDATE apikeys_apikey key SET first_id = line.first_id FROM line WHERE line.id = key.id
"""


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0006_spend_cap")]

    operations = [migrations.RunSQL(FILL, migrations.RunSQL.noop)]
