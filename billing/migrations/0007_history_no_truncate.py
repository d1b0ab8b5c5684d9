"""The history cannot be emptied either: its own triggers see single rows, and TRUNCATE passes them by."""

from django.db import migrations

REFUSE = """
CREATE TRIGGER languagemodelhistory_no_truncate BEFORE TRUNCATE ON billing_languagemodelhistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
"""

ALLOW = """
DROP TRIGGER languagemodelhistory_no_truncate ON billing_languagemodelhistory;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0006_history"), ("accounts", "0005_audit_is_append_only")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
