-- breaking: no
-- Waking a relay that sleeps: NOTIFY in a producer's transaction, but only while some relay has asked for it.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.sleeper (
  incarnation uuid PRIMARY KEY,
  until timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.sleeper IS 'Relays with little to do, which want to be woken by a NOTIFY when something is enqueued. While nobody is in here (a busy relay is not) a producer pays for one look at this table and never for a NOTIFY, which would serialise commits.';
COMMENT ON COLUMN outbox.sleeper.until IS 'By the clock of the database; the relay moves it on while it sleeps. A relay that died is forgotten then.';

-- NOTIFY makes commits wait for each other, so it is sent for sleepers only. The payload is constant: many in one transaction
-- are one. It is never worth an error: a queue of notifications that somebody's forgotten listener has let grow would
-- refuse the commit when it is full.
CREATE FUNCTION outbox.wake_relays() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Absurdly far ahead, because the clock went back, is nobody.
  IF EXISTS (SELECT FROM outbox.sleeper s WHERE s.until > now() AND s.until < now() + interval '1 hour') THEN
    IF pg_notification_queue_usage() < 0.5 THEN
      PERFORM pg_notify('hapax', '');
    END IF;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.wake_relays() IS 'Trigger of outbox.message: NOTIFY hapax, if a relay sleeps (outbox.sleeper). A hint only: what is enqueued is found by polling, too.';

CREATE TRIGGER message_wakes_relays AFTER INSERT ON outbox.message FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relays();
COMMENT ON TRIGGER message_wakes_relays ON outbox.message IS 'Wakes relays that sleep; costs one look at an empty table while none does.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'SELECT, INSERT, UPDATE, DELETE', '{sleeper}'),
  ('outbox_operator outbox_viewer outbox_monitor', 'SELECT', '{sleeper}');
SELECT outbox.grant_roles();
