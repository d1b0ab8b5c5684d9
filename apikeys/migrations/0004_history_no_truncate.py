"""The history cannot be emptied either: its own triggers see single rows, and TRUNCATE passes them by."""

from django.db import migrations

REFUSE = """
CREATE TRIGGER apikeyhistory_no_truncate BEFORE TRUNCATE ON apikeys_apikeyhistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
"""

ALLOW = """
DROP TRIGGER apikeyhistory_no_truncate ON apikeys_apikeyhistory;
"""


class Migration(migrations.Migration):
    dependencies = [("apikeys", "0003_history"), ("accounts", "0005_audit_is_append_only")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
