"""Usage records become a table partitioned by month of their id. Django knows no partitions, so this is SQL.

The columns and check constraints are taken from the table that 0001 made, so that they are written once.
"""

from datetime import UTC, datetime

from django.db import migrations

from billing import partitions

PARTITION = """
ALTER TABLE billing_usagerecord RENAME TO billing_usagerecord_plain;
CREATE TABLE billing_usagerecord (LIKE billing_usagerecord_plain INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (id);
DROP TABLE billing_usagerecord_plain;
ALTER TABLE billing_usagerecord ADD CONSTRAINT billing_usagerecord_pkey PRIMARY KEY (id);
CREATE INDEX usage_pending ON billing_usagerecord (account_id, id) WHERE settled_at IS NULL;
CREATE INDEX usage_of_account ON billing_usagerecord (account_id, id DESC);
CREATE INDEX usage_of_transfer ON billing_usagerecord (transfer_id);
CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT;
"""


def make_first_months(apps, schema_editor):
    partitions.ensure(now=datetime.now(UTC))


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.RunSQL(PARTITION, migrations.RunSQL.noop),
        migrations.RunPython(make_first_months, migrations.RunPython.noop),
    ]
