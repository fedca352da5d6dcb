-- Rows by tenant: roles that look at, enqueue and cancel what is their own tenant's, and see nothing else of the outbox.
--
-- An example, to be changed. Apply it as an administrator: psql -X -v ON_ERROR_STOP=1 -f tenants.sql. What a role may see is decided by who
-- has logged in (session_user): no SET, no SET ROLE and no argument changes it. Addresses are masked; GRANT EXECUTE ON FUNCTION outbox.unmasked()
-- TO mail_desk shows each tenant those of its own mail. The tables of the outbox have no policies, on purpose: they would bind relays too, and a
-- relay that is forgotten in one sees an empty queue. tests/tests/dba/tenants.rs logs in as such roles.
BEGIN;
CREATE ROLE mail_desk NOLOGIN IN ROLE outbox_viewer, outbox_producer; -- everything below runs as it; nobody is a member
CREATE ROLE mail_tenant NOLOGIN;                                      -- who may use what is below
CREATE SCHEMA mail AUTHORIZATION mail_desk;
SET LOCAL ROLE mail_desk;
CREATE TABLE mail.tenant (role name PRIMARY KEY, tenant text NOT NULL CHECK (tenant <> ''));

CREATE FUNCTION mail.own_tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own text := (SELECT t.tenant FROM mail.tenant t WHERE t.role = session_user);
BEGIN
  IF own IS NULL THEN RAISE insufficient_privilege USING MESSAGE = format('%s has no tenant', session_user); END IF;
  RETURN own;
END $$;
-- The newest, a page at a time: give the last message_id of a page as "before". The mail of a small tenant is found by reading back through
-- that of all.
CREATE FUNCTION mail.deliveries(newest int DEFAULT 50, before uuid DEFAULT NULL, message uuid DEFAULT NULL)
RETURNS TABLE (message_id uuid, recipient_no int, recipient text, kind text, state text, reason text, created_at timestamptz, due_at timestamptz, finished_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT d.message_id, d.recipient_no, d.recipient, d.kind, d.state, d.reason, d.created_at, d.due_at, d.finished_at FROM outbox.deliveries d
    WHERE d.tenant = mail.own_tenant() AND (message IS NULL OR d.message_id = message) AND (before IS NULL OR d.message_id < before)
    ORDER BY d.message_id DESC, d.recipient_no LIMIT least(newest, 1000);
END $$;
-- The keys are the arguments of outbox.enqueue(); whatever is given as tenant is replaced.
CREATE FUNCTION mail.enqueue(notification jsonb) RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT e.id FROM outbox.enqueue_many(jsonb_build_array(notification || jsonb_build_object('tenant', mail.own_tenant()))) e);
END $$;
CREATE FUNCTION mail.cancel(message uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM mail.deliveries(1, message => cancel.message)) THEN
    RETURN QUERY SELECT c.recipient_no, c.result FROM outbox.cancel(cancel.message, cancel.reason) c;
  END IF;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mail FROM PUBLIC;
GRANT USAGE ON SCHEMA mail TO mail_tenant;
GRANT EXECUTE ON FUNCTION mail.deliveries(int, uuid, uuid), mail.enqueue(jsonb), mail.cancel(uuid, text) TO mail_tenant;
COMMIT;

-- For each tenant: a login of its own.
--   CREATE ROLE acme LOGIN PASSWORD '...' IN ROLE mail_tenant;
--   INSERT INTO mail.tenant VALUES ('acme', 'acme');
--   -- and then, logged in as acme:
--   SELECT mail.enqueue('{"kind": "greeting", "recipients": ["ada@example.org"], "subject": "Hello", "body_text": "Hello"}');
--   SELECT * FROM mail.deliveries();
