"""What was done cannot be undone: the database refuses to change or delete an audit event, whoever asks."""

from django.db import migrations

REFUSE = """
CREATE FUNCTION flint_refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what was done stays written', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON accounts_auditevent
    FOR EACH ROW EXECUTE FUNCTION flint_refuse_rewriting();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON accounts_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_rewriting();
"""

ALLOW = """
DROP TRIGGER audit_append_only ON accounts_auditevent;
DROP TRIGGER audit_no_truncate ON accounts_auditevent;
DROP FUNCTION flint_refuse_rewriting;
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0004_audit_event")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
