"""What must never change is refused by the database, whoever asks: transfers, prices, and what a call was charged."""

from django.db import migrations

REFUSE = """
CREATE FUNCTION flint_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: its rows are never changed, only followed by others', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE ON billing_transfer
    FOR EACH ROW EXECUTE FUNCTION flint_refuse_change();
CREATE TRIGGER transfer_no_truncate BEFORE TRUNCATE ON billing_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_change();

-- What a call used and was charged is evidence: settlement stamps it once, and nothing else of it ever changes.
CREATE TRIGGER usage_settled_once BEFORE UPDATE ON billing_usagerecord FOR EACH ROW
    WHEN (OLD.settled_at IS NOT NULL
          OR (OLD.id, OLD.account_id, OLD.api_key_id, OLD.model_id, OLD.price_version_id, OLD.admitted_at, OLD.outcome,
              OLD.source, OLD.input_tokens, OLD.cached_input_tokens, OLD.output_tokens, OLD.reasoning_tokens, OLD.held,
              OLD.charge)
             IS DISTINCT FROM
             (NEW.id, NEW.account_id, NEW.api_key_id, NEW.model_id, NEW.price_version_id, NEW.admitted_at, NEW.outcome,
              NEW.source, NEW.input_tokens, NEW.cached_input_tokens, NEW.output_tokens, NEW.reasoning_tokens, NEW.held,
              NEW.charge))
    EXECUTE FUNCTION flint_refuse_change();
CREATE TRIGGER usage_no_delete BEFORE DELETE ON billing_usagerecord
    FOR EACH ROW EXECUTE FUNCTION flint_refuse_change();

CREATE TRIGGER rate_append_only BEFORE UPDATE OR DELETE ON billing_pricerate
    FOR EACH ROW EXECUTE FUNCTION flint_refuse_change();
CREATE TRIGGER rate_no_truncate BEFORE TRUNCATE ON billing_pricerate
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_change();

CREATE TRIGGER price_no_delete BEFORE DELETE ON billing_priceversion
    FOR EACH ROW EXECUTE FUNCTION flint_refuse_change();
CREATE TRIGGER price_no_truncate BEFORE TRUNCATE ON billing_priceversion
    FOR EACH STATEMENT EXECUTE FUNCTION flint_refuse_change();

-- The one change that a price allows: its end, from open to a moment not yet past.
CREATE FUNCTION flint_price_may_only_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ends_at IS NULL AND NEW.ends_at >= statement_timestamp()
       AND (NEW.id, NEW.model_id, NEW.account_id, NEW.starts_at, NEW.created_at, NEW.created_by_id)
           IS NOT DISTINCT FROM (OLD.id, OLD.model_id, OLD.account_id, OLD.starts_at, OLD.created_at, OLD.created_by_id)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a price is superseded, never edited; only its end may move, from open to the future'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER price_may_only_end BEFORE UPDATE ON billing_priceversion
    FOR EACH ROW EXECUTE FUNCTION flint_price_may_only_end();

-- Rates come in the transaction that makes their version, or never: a price is not completed afterwards.
CREATE FUNCTION flint_rate_with_its_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT created_at FROM billing_priceversion WHERE id = NEW.version_id) < transaction_timestamp() THEN
        RAISE EXCEPTION 'rates are added together with their price version, not later'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER rate_with_its_version BEFORE INSERT ON billing_pricerate
    FOR EACH ROW EXECUTE FUNCTION flint_rate_with_its_version();
"""

ALLOW = """
DROP TRIGGER transfer_append_only ON billing_transfer;
DROP TRIGGER transfer_no_truncate ON billing_transfer;
DROP TRIGGER usage_settled_once ON billing_usagerecord;
DROP TRIGGER usage_no_delete ON billing_usagerecord;
DROP TRIGGER rate_append_only ON billing_pricerate;
DROP TRIGGER rate_no_truncate ON billing_pricerate;
DROP TRIGGER rate_with_its_version ON billing_pricerate;
DROP TRIGGER price_no_delete ON billing_priceversion;
DROP TRIGGER price_no_truncate ON billing_priceversion;
DROP TRIGGER price_may_only_end ON billing_priceversion;
DROP FUNCTION flint_rate_with_its_version, flint_price_may_only_end, flint_refuse_change;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_partition_usage")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
