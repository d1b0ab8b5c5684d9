"""The history cannot be emptied either: its own triggers see single rows, and TRUNCATE passes them by."""

from django.db import migrations

REFUSE = """
CREATE TRIGGER backendhistory_no_truncate BEFORE TRUNCATE ON gateway_backendhistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
CREATE TRIGGER routehistory_no_truncate BEFORE TRUNCATE ON gateway_routehistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
"""

ALLOW = """
DROP TRIGGER backendhistory_no_truncate ON gateway_backendhistory;
DROP TRIGGER routehistory_no_truncate ON gateway_routehistory;
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0002_history"), ("accounts", "0005_audit_is_append_only")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
