-- breaking: no
-- A week is dropped by who sees what is committed meanwhile, and nothing is notified where a notification keeps a transaction from being
-- prepared.
SET LOCAL lock_timeout = '5s';

-- With a snapshot of its own beginning (REPEATABLE READ, SERIALIZABLE) the check under the lock would not see a delivery that was
-- committed between the two, and drop its message.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.drop_partitions_before(timestamptz)'::regprocedure);
  begins text := E'BEGIN\n  DELETE FROM outbox.upkeep_postponed u WHERE u.last_at < now() - interval ''7 days'' AND u.unqueued IS NULL;\n';
BEGIN
  IF length(source) - length(replace(source, begins, '')) <> length(begins) THEN
    RAISE EXCEPTION 'outbox.drop_partitions_before is not as it was';
  END IF;
  EXECUTE replace(source, begins, $b$BEGIN
  DELETE FROM outbox.upkeep_postponed u WHERE u.last_at < now() - interval '7 days' AND u.unqueued IS NULL;
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    SELECT n.* INTO action, detail FROM outbox.note_postponed('old weeks',
      'are dropped under READ COMMITTED only: this transaction would not see what was enqueued meanwhile', 'postponed') n;
    RETURN NEXT;
    RETURN;
  END IF;
  DELETE FROM outbox.upkeep_postponed u WHERE u.what = 'old weeks';
$b$);
END $migration$;

-- A relay that fell asleep before the server was restarted with max_prepared_transactions is still in the table for a while.
CREATE OR REPLACE FUNCTION outbox.wake_relays() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF EXISTS (SELECT FROM outbox.sleeper s WHERE s.until > now() AND s.until < now() + interval '1 hour') AND pg_notification_queue_usage() < 0.5
     AND current_setting('max_prepared_transactions') = '0' THEN
    PERFORM pg_notify('hapax', '');
  END IF;
END $$;
