-- breaking: no
-- A claim by turns asks an index about each tenant. Behind an OR, EXISTS may become a table of all tenants that have anything,
-- made by reading the whole lane once for every tenant whose first delivery is on the wire: with a million pending, 300,000
-- buffers for one claim.
SET LOCAL lock_timeout = '5s';

DO $migration$
DECLARE
  text text := pg_get_functiondef('outbox.claim_turns(uuid, text, uuid, float8, smallint, bigint, int, timestamptz, uuid, smallint)'::regprocedure);
  change text[];
BEGIN
  FOREACH change SLICE 1 IN ARRAY ARRAY[
    ARRAY['OR EXISTS (
          SELECT FROM outbox.queue x', 'OR coalesce((
          SELECT true FROM outbox.queue x'],
    ARRAY['x.lease_until > now() + interval ''1 day'')))
      INTO', 'x.lease_until > now() + interval ''1 day'')
          ORDER BY x.due_at, x.message_id, x.recipient_no LIMIT 1), false))
      INTO']]
  LOOP
    IF position(change[1] IN text) = 0 THEN
      RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'outbox.claim_turns is not as an earlier migration made it';
    END IF;
    text := overlay(text PLACING change[2] FROM position(change[1] IN text) FOR length(change[1]));
  END LOOP;
  EXECUTE text;
END $migration$;
