-- breaking: no
-- The canary: a notification that goes the way of all others now and then, so that it is noticed when none arrives.
SET LOCAL lock_timeout = '5s';

-- One row for the whole outbox instead of a dedup key for each: nothing accumulates, and when one came through last is known
-- also after its history was dropped.
CREATE TABLE outbox.canary_standing (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  message_id uuid,
  enqueued_at timestamptz,
  completed_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.canary_standing IS 'One row: the canary under way, and when the last ones were enqueued and accepted. Kept by outbox.canary(). Private.';
COMMENT ON COLUMN outbox.canary_standing.message_id IS 'The canary whose end was not noted yet.';
COMMENT ON COLUMN outbox.canary_standing.completed_at IS 'When a server accepted one last; a doubt that was decided without evidence does not count.';
INSERT INTO outbox.canary_standing DEFAULT VALUES;

-- The second look is under the row's lock, and whoever does not get it leaves the slot to the one who has it: nobody waits. A slot
-- is counted by the database's clock and the caller's own length: callers of different lengths enqueue at the slots of each.
-- What lies ahead of a clock that went back counts as of now.
CREATE FUNCTION outbox.canary(recipient text, every interval, route text DEFAULT NULL, sender text DEFAULT NULL)
RETURNS TABLE (message_id uuid, enqueued boolean, under_way boolean, enqueued_at timestamptz, completed_at timestamptz, next_in interval)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  slot constant float8 := date_part('epoch', every);
  known outbox.canary_standing;
  locked outbox.canary_standing;
  finished outbox.done;
  at timestamptz;
  ahead boolean;
  due boolean;
  waits text;
BEGIN
  IF every IS NULL OR NOT every BETWEEN interval '1 second' AND interval '1 day' THEN
    PERFORM outbox.refuse('22H11', 'outbox.canary', 'every', 'is not between a second and a day', 'set every below [canary] in hapax.toml, or leave it out');
  END IF;
  SELECT c.* INTO known FROM outbox.canary_standing c;
  IF NOT FOUND THEN
    INSERT INTO outbox.canary_standing DEFAULT VALUES ON CONFLICT DO NOTHING;
  END IF;
  FOR looks IN 1..2 LOOP
    -- The queue first: what is finished goes from there to outbox.done in one commit.
    SELECT q.parked INTO waits FROM outbox.queue q WHERE q.message_id = known.message_id AND q.recipient_no = 1;
    -- What waits for a decision, however long that takes, holds up no other.
    under_way := FOUND AND coalesce(waits NOT IN ('doubt', 'held', 'poison'), true);
    finished := NULL;
    IF NOT under_way AND known.message_id IS NOT NULL THEN
      SELECT d.* INTO finished FROM outbox.done d WHERE d.message_id = known.message_id AND d.recipient_no = 1;
    END IF;
    IF finished.state = 'sent' AND finished.evidence IN ('reply', 'report', 'idempotent upstream') THEN
      known.completed_at := finished.finished_at;
    END IF;
    at := clock_timestamp();
    ahead := coalesce(greatest(known.enqueued_at, known.completed_at) > at, false);
    IF ahead THEN
      known.enqueued_at := CASE WHEN known.enqueued_at > at THEN at ELSE known.enqueued_at END;
      known.completed_at := CASE WHEN known.completed_at > at THEN at ELSE known.completed_at END;
    END IF;
    due := NOT under_way AND coalesce(floor(date_part('epoch', known.enqueued_at) / slot) < floor(date_part('epoch', at) / slot), true);
    EXIT WHEN looks = 2 OR NOT (due OR ahead OR known.message_id IS NOT NULL AND NOT under_way);
    SELECT c.* INTO locked FROM outbox.canary_standing c FOR UPDATE SKIP LOCKED;
    EXIT WHEN NOT FOUND;
    known := locked;
  END LOOP;

  enqueued := due AND locked.singleton IS NOT NULL;
  IF locked.singleton IS NOT NULL THEN
    IF NOT under_way THEN
      known.message_id := NULL;
    END IF;
    IF due THEN
      -- A doubt about it is decided without a person: the next one tells more than this one's fate. An old one ends by itself.
      known.message_id := outbox.put('outbox.canary', ROW(NULL::uuid, 'hapax_canary', ARRAY[recipient], NULL::json, 'Hapax canary',
        format(E'Hapax sent this to itself to see that mail goes through. Nobody needs to do anything about it.\n\nEnqueued %s, every %s.\n',
               to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC'), every),
        NULL, NULL::bytea, sender, NULL, NULL::text[], NULL::text[], NULL::jsonb, NULL::jsonb, NULL::timestamptz, at + greatest(3 * every, interval '1 minute'), 'normal',
        NULL, NULL, NULL::interval, 'assume_sent', route, NULL, NULL, NULL, NULL)::outbox.notification);
      known.enqueued_at := at;
      under_way := true;
    END IF;
    UPDATE outbox.canary_standing c SET message_id = known.message_id, enqueued_at = known.enqueued_at, completed_at = known.completed_at
    WHERE (c.message_id, c.enqueued_at, c.completed_at) IS DISTINCT FROM (known.message_id, known.enqueued_at, known.completed_at);
  END IF;
  message_id := known.message_id;
  enqueued_at := known.enqueued_at;
  completed_at := known.completed_at;
  next_in := make_interval(secs => (floor(date_part('epoch', at) / slot) + 1) * slot - date_part('epoch', at));
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION outbox.canary(text, interval, text, text) IS
'Relays: enqueues a canary (kind hapax_canary, a short plain text) unless one is under way or this slot has had its own, whoever of the relays asks; then says when one was enqueued and accepted last. It expires after three slots (a minute at least); a doubt about it ends as assume_sent, which does not count as accepted. The kind is reserved for it.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{canary}'::text[]);
SELECT outbox.grant_roles();
