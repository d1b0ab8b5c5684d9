"""The history cannot be emptied either: its own triggers see single rows, and TRUNCATE passes them by."""

from django.db import migrations

REFUSE = """
CREATE TRIGGER accounthistory_no_truncate BEFORE TRUNCATE ON accounts_accounthistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
CREATE TRIGGER membershiphistory_no_truncate BEFORE TRUNCATE ON accounts_membershiphistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
CREATE TRIGGER tierhistory_no_truncate BEFORE TRUNCATE ON accounts_tierhistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
CREATE TRIGGER userhistory_no_truncate BEFORE TRUNCATE ON accounts_userhistory
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
"""

ALLOW = """
DROP TRIGGER accounthistory_no_truncate ON accounts_accounthistory;
DROP TRIGGER membershiphistory_no_truncate ON accounts_membershiphistory;
DROP TRIGGER tierhistory_no_truncate ON accounts_tierhistory;
DROP TRIGGER userhistory_no_truncate ON accounts_userhistory;
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0007_history")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
