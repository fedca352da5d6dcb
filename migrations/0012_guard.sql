-- breaking: no
-- The database is not the one I knew: what is held after a failover, what relays restore from memory, where this outbox lives.
SET LOCAL lock_timeout = '5s';

-- Every epoch this outbox has had: a relay that comes with one of them means this outbox, however old its memory.
CREATE TABLE outbox.arming (
  epoch uuid PRIMARY KEY,
  identity text NOT NULL,
  armed_at timestamptz NOT NULL DEFAULT now(),
  armed_by name NOT NULL DEFAULT session_user,
  reason text,
  considered boolean NOT NULL DEFAULT true
);
COMMENT ON COLUMN outbox.arming.considered IS 'What may have been sent was held, or it was said that nothing is to be held. Otherwise a relay whose heartbeat has fallen back disarms it: the server was restored in place, and armed before anybody noticed.';
COMMENT ON TABLE outbox.arming IS 'One row per arming: the epochs of this outbox. Private.';
INSERT INTO outbox.arming (epoch, identity, armed_at, armed_by, reason) SELECT c.epoch, c.identity, c.armed_at, c.armed_by, 'installed' FROM outbox.control c;

-- Data of another outbox (pg_restore --data-only into one that was migrated before) brings its epochs along, and its queue: what
-- is due there would be sent from here, too.
CREATE FUNCTION outbox.notice_restore() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM fresh f WHERE f.epoch NOT IN (SELECT c.epoch FROM outbox.control c)) THEN
    UPDATE outbox.control SET identity = 'disarmed: data of another outbox was restored into it';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.notice_restore() IS 'Trigger of outbox.arming: rows that outbox.arm() did not write come from a restore, which disarms.';
CREATE TRIGGER arming_is_ours AFTER INSERT ON outbox.arming
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION outbox.notice_restore();
COMMENT ON TRIGGER arming_is_ours ON outbox.arming IS 'A restore of data into this outbox disarms it.';

CREATE TABLE outbox.armed_address (
  address text NOT NULL,
  port integer NOT NULL,
  noted_at timestamptz NOT NULL DEFAULT now(),
  noted_by name NOT NULL DEFAULT session_user,
  how text NOT NULL,
  PRIMARY KEY (address, port)
);
COMMENT ON TABLE outbox.armed_address IS 'Where the armed server has been met, by its own word. A copy of the whole server has the same identity, but another address. Emptied by every arming. Private.';
COMMENT ON COLUMN outbox.armed_address.address IS 'inet_server_addr(); empty for a unix socket or loopback, which say nothing about the machine.';

CREATE TABLE outbox.failover (
  epoch uuid NOT NULL,
  identity text NOT NULL,
  cause text NOT NULL,
  noticed_at timestamptz NOT NULL DEFAULT now(),
  noticed_by name NOT NULL DEFAULT session_user,
  after_message uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  after_recipient smallint NOT NULL DEFAULT 0,
  until_message uuid,
  until_recipient smallint,
  held bigint NOT NULL DEFAULT 0,
  completed_at timestamptz,
  PRIMARY KEY (epoch, identity)
);
COMMENT ON TABLE outbox.failover IS 'One row per server that was met while another was armed: how far outbox.quarantine() has walked the queue there. Private.';
COMMENT ON COLUMN outbox.failover.until_message IS 'The last delivery when it was noticed: what comes later was never on the other server.';
COMMENT ON COLUMN outbox.failover.epoch IS 'The epoch that was armed when it was noticed.';
COMMENT ON COLUMN outbox.failover.identity IS 'outbox.database_identity() of the server that was met.';

-- Where am I? --------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.own_address(OUT address text, OUT port integer) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN inet_server_addr() <<= inet '127.0.0.0/8' OR host(inet_server_addr()) = '::1' THEN '' ELSE coalesce(host(inet_server_addr()), '') END,
         current_setting('port')::integer
$$;
COMMENT ON FUNCTION outbox.own_address() IS 'The server''s own address and port as this connection meets it. The address is empty on a unix socket or loopback.';

CREATE FUNCTION outbox.address_is_known() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT NOT EXISTS (SELECT FROM outbox.armed_address)
      OR EXISTS (SELECT FROM outbox.armed_address a WHERE a.port = own.port AND (own.address = '' OR a.address = own.address))
      -- Met through sockets only so far: the port is all there is to compare.
      OR NOT EXISTS (SELECT FROM outbox.armed_address a WHERE a.address <> '') AND EXISTS (SELECT FROM outbox.armed_address a WHERE a.port = own.port)
  FROM outbox.own_address() own
$$;
COMMENT ON FUNCTION outbox.address_is_known() IS 'Whether the armed server has been met at this address before. True as long as none is on record: the first relay records it.';

CREATE FUNCTION outbox.note_address(how text) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own record;
BEGIN
  SELECT * INTO own FROM outbox.own_address();
  IF EXISTS (SELECT FROM outbox.armed_address a WHERE a.address = own.address AND a.port = own.port) THEN
    RETURN false;
  END IF;
  INSERT INTO outbox.armed_address (address, port, how) VALUES (own.address, own.port, note_address.how) ON CONFLICT DO NOTHING;
  -- Whoever took it for a copy was wrong.
  DELETE FROM outbox.failover f USING outbox.control c
  WHERE f.epoch = c.epoch AND f.identity = c.identity AND f.completed_at IS NULL AND f.held = 0;
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.note_address(text) IS 'Records this server''s address as that of the armed one. Called by relays whose own heartbeat proves that it is.';

CREATE FUNCTION outbox.addresses() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(string_agg(CASE WHEN a.address = '' THEN 'port ' || a.port WHEN a.address LIKE '%:%' THEN format('[%s]:%s', a.address, a.port) ELSE format('%s:%s', a.address, a.port) END, ', ' ORDER BY a.noted_at), '')
  FROM outbox.armed_address a
$$;
COMMENT ON FUNCTION outbox.addresses() IS 'The addresses of the armed server, for people.';

CREATE FUNCTION outbox.armed_state(OUT armed boolean, OUT standby boolean, OUT copy boolean, OUT armed_for text, OUT here text, OUT address text, OUT port integer, OUT database text) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(c.identity = h.here, false) AND NOT s.copy, pg_is_in_recovery(), s.copy, c.identity, h.here, own.address, own.port, current_database()::text FROM outbox.control c
  -- A standby cannot say who it will be.
  CROSS JOIN LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE outbox.database_identity() END AS here) h
  CROSS JOIN LATERAL (SELECT NOT outbox.address_is_known() AND EXISTS (SELECT FROM outbox.failover f WHERE f.epoch = c.epoch AND f.identity = c.identity AND f.completed_at IS NULL) AS copy) s CROSS JOIN outbox.own_address() own
$$;
COMMENT ON FUNCTION outbox.armed_state() IS 'Whether relays send from this database, for people: whether it is armed, a standby, or was taken for a copy by a relay (an address that is not known); which server it is armed for, which one this is, and where. Works on a standby.';

-- What intend asks besides assert_armed(): the relay's own heartbeat counter must not have fallen back. A snapshot restored in
-- place has identity and epoch of the original. One look at one row per statement, not per message.
CREATE FUNCTION outbox.assert_continues(p_epoch uuid, p_identity text, p_relay uuid, p_beat bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  stands bigint;
BEGIN
  PERFORM outbox.assert_armed(p_epoch, p_identity);
  SELECT r.beat INTO stands FROM outbox.relay r WHERE r.incarnation = p_relay;
  IF stands IS NULL OR stands < p_beat THEN
    RAISE EXCEPTION USING ERRCODE = 'HX001', MESSAGE = 'outbox: this is not the database the relay was armed for',
      DETAIL = format('the relay''s heartbeat stood at %s and is %s now: this is an earlier state of the database', p_beat, coalesce(stands::text, 'unknown')),
      HINT = 'after a restore: hapax arm --reason ''why'', or SELECT * FROM outbox.arm(''why'')';
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.assert_continues(uuid, text, uuid, bigint) IS 'As assert_armed(), and raises HX001 too when the relay''s own heartbeat is not what it was: the database was restored to an earlier point.';

-- Besides what the relay names: the outbox must be armed for the server that answers. A relay that has seen its heartbeat fall
-- back disarms it, with everything else unchanged.
CREATE OR REPLACE FUNCTION outbox.assert_armed(p_epoch uuid, p_identity text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  armed_epoch uuid;
  armed_identity text;
  found_identity text := outbox.database_identity();
BEGIN
  SELECT c.epoch, c.identity INTO armed_epoch, armed_identity FROM outbox.control c;
  IF armed_epoch IS DISTINCT FROM p_epoch OR found_identity IS DISTINCT FROM p_identity OR armed_identity IS DISTINCT FROM found_identity THEN
    RAISE EXCEPTION USING ERRCODE = 'HX001', MESSAGE = 'outbox: this is not the database the relay was armed for',
      DETAIL = format('expected %s of epoch %s, found %s of epoch %s, armed for %s', p_identity, p_epoch, found_identity, armed_epoch, armed_identity),
      HINT = 'after a failover or a restore: hapax arm --reason ''why'', or SELECT * FROM outbox.arm(''why'')';
  END IF;
  RETURN true;
END $$;

CREATE FUNCTION outbox.disarm(p_epoch uuid, p_relay uuid, p_beat bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stands bigint;
BEGIN
  SELECT r.beat INTO stands FROM outbox.relay r WHERE r.incarnation = p_relay;
  IF stands >= p_beat THEN
    RETURN false;
  END IF;
  -- Armed anew meanwhile, without a thought of what had been sent: whoever typed it could not know.
  UPDATE outbox.control c SET identity = 'disarmed: restored to an earlier point'
  WHERE c.identity = outbox.database_identity()
    AND (c.epoch = p_epoch OR NOT coalesce((SELECT a.considered FROM outbox.arming a WHERE a.epoch = c.epoch), true));
  IF FOUND THEN
    PERFORM outbox.audit_entry('disarm', NULL, NULL, NULL, format('the heartbeat of relay %s stood at %s and is %s now', p_relay, p_beat, coalesce(stands::text, 'unknown')),
                               outbox.database_identity(), 'disarmed');
    RETURN true;
  END IF;
  RETURN EXISTS (SELECT FROM outbox.control c WHERE c.epoch = p_epoch);
END $$;
COMMENT ON FUNCTION outbox.disarm(uuid, uuid, bigint) IS 'A living relay says that its heartbeat has fallen back: this database was restored to an earlier point, and nothing is sent from it until it is armed. Answers whether that is so.';

CREATE FUNCTION outbox.notice(p_epoch uuid, p_identity text, p_cause text) RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO outbox.failover (epoch, identity, cause, until_message, until_recipient)
  SELECT p_epoch, p_identity, p_cause, l.message_id, l.recipient_no
  FROM (VALUES (1)) one LEFT JOIN (SELECT q.message_id, q.recipient_no FROM outbox.queue q ORDER BY q.message_id DESC, q.recipient_no DESC LIMIT 1) l ON true
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION outbox.notice(uuid, text, text) IS 'Private: from now on everything that is in the queue has to be walked by quarantine().';

CREATE FUNCTION outbox.descends_from(p_epoch uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM outbox.arming a WHERE a.epoch = p_epoch)
$$;
COMMENT ON FUNCTION outbox.descends_from(uuid) IS 'Whether this outbox ever had that epoch. One that has not is older than the relay that asks, the primary from before a failover for example, and must not be sent from.';

CREATE FUNCTION outbox.suspect_copy() RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.notice(c.epoch, outbox.database_identity(), 'a copy, or the server has moved') FROM outbox.control c
$$;
COMMENT ON FUNCTION outbox.suspect_copy() IS 'A relay has met this outbox at an address that is not known: the next arming holds what is pending.';

-- Quarantine ---------------------------------------------------------------------------------------------------------
-- What the lost part of history may have sent: every delivery without intent that may ever have been due. Walks the queue by
-- key, once, a batch per call, up to what was its end when the switch was noticed: what came later was never on the other
-- server. Several callers share the walk.
CREATE FUNCTION outbox.quarantine(batch integer DEFAULT 10000, OUT held bigint, OUT finished boolean) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  here text := outbox.database_identity();
  c outbox.control;
  f outbox.failover;
  last_message uuid;
  last_recipient smallint;
  newly bigint;
BEGIN
  held := 0; finished := true;
  SELECT * INTO c FROM outbox.control FOR UPDATE;
  IF c.identity IS DISTINCT FROM here THEN
    PERFORM outbox.notice(c.epoch, here, CASE WHEN c.identity LIKE 'disarmed: %' THEN substr(c.identity, 11) ELSE 'another server, it was ' || c.identity END);
  END IF;
  SELECT * INTO f FROM outbox.failover x WHERE x.epoch = c.epoch AND x.identity = here FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  held := f.held;
  IF f.completed_at IS NOT NULL THEN RETURN; END IF;
  SELECT p.message_id, p.recipient_no INTO last_message, last_recipient FROM (
    SELECT q.message_id, q.recipient_no FROM outbox.queue q WHERE (q.message_id, q.recipient_no) > (f.after_message, f.after_recipient) AND (q.message_id, q.recipient_no) <= (f.until_message, f.until_recipient)
    ORDER BY q.message_id, q.recipient_no LIMIT greatest(batch, 1)) p
  ORDER BY p.message_id DESC, p.recipient_no DESC LIMIT 1;
  IF NOT FOUND THEN
    UPDATE outbox.failover x SET completed_at = now() WHERE x.epoch = f.epoch AND x.identity = f.identity;
    PERFORM outbox.audit_entry('quarantine', NULL, NULL, NULL, 'failover: ' || f.cause, c.identity, f.held || ' held');
    RETURN;
  END IF;
  WITH walked AS (
    UPDATE outbox.queue q
    SET parked = coalesce(q.parked, 'held'), due_at = 'infinity', lease = NULL, lease_until = NULL,
        note = CASE WHEN q.parked = 'doubt' THEN 'failover: ' || coalesce(q.note, 'in doubt before it') ELSE 'failover: may have been sent before it, by what this server does not know' END
    WHERE (q.message_id, q.recipient_no) > (f.after_message, f.after_recipient) AND (q.message_id, q.recipient_no) <= (last_message, last_recipient)
      AND q.note IS DISTINCT FROM 'failover: may have been sent before it, by what this server does not know'
      -- Behind an ordering key: its turn may have come, so when it comes here it is held (free_next(), settle). In doubt: a
      -- person decides, not a policy, which may have decided before.
      AND (q.intent IS NULL AND coalesce(q.parked, 'ordered') = 'ordered' OR q.parked = 'doubt' AND coalesce(q.note, '') NOT LIKE 'failover:%')
      -- Nothing is due before its not_before, whatever happens to it; an hour for clocks that differ.
      AND (q.parked = 'doubt' OR q.due_at <= now() OR coalesce(outbox.not_before_of(q.message_id) <= now() + interval '1 hour', true))
    RETURNING q.parked
  )
  SELECT count(*) FILTER (WHERE w.parked = 'held') INTO newly FROM walked w;
  UPDATE outbox.failover x SET after_message = last_message, after_recipient = last_recipient, held = x.held + newly
  WHERE x.epoch = f.epoch AND x.identity = f.identity;
  held := f.held + newly;
  finished := false;
END $$;
COMMENT ON FUNCTION outbox.quarantine(integer) IS
'Holds what may have been sent by the part of history that this server does not know: a batch per call, until finished. Does nothing on a server that is armed. Relays call it when they meet another server; outbox.arm() does what is left. Example:
  SELECT * FROM outbox.quarantine();';

-- Held by a failover: what is freed behind an ordering key, too.
CREATE OR REPLACE FUNCTION outbox.free_next(p_order_key text) RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE outbox.queue q
  SET parked = CASE WHEN q.note LIKE 'failover:%' THEN 'held' END,
      due_at = CASE WHEN q.note LIKE 'failover:%' THEN 'infinity' ELSE greatest(now(), (SELECT m.not_before FROM outbox.message m WHERE m.id = q.message_id)) END
  FROM (
    SELECT n.message_id, n.recipient_no FROM outbox.queue n
    WHERE n.parked = 'ordered'
      AND NOT EXISTS (SELECT FROM outbox.queue h WHERE h.order_key = p_order_key AND h.parked IS DISTINCT FROM 'ordered')
      AND (n.message_id, n.recipient_no) = (
        SELECT f.message_id, f.recipient_no FROM outbox.queue f
        WHERE f.order_key = p_order_key AND f.parked = 'ordered' ORDER BY f.order_no LIMIT 1)
    FOR UPDATE OF n SKIP LOCKED) n
  WHERE q.message_id = n.message_id AND q.recipient_no = n.recipient_no
$$;

-- As before; and what may have been sent by a lost server counts as a decision to send it again.
CREATE OR REPLACE FUNCTION outbox.release(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  known boolean := false;
BEGIN
  PERFORM outbox.require_reason('release', release.reason);
  FOR q IN SELECT x.* FROM outbox.queue x WHERE x.message_id = release.id ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    recipient_no := q.recipient_no;
    IF q.parked IN ('held', 'poison') THEN
      -- A released delivery may send other bytes than before only if nothing of it can have arrived.
      UPDATE outbox.queue u SET parked = NULL, note = NULL, claims = 0, resends = u.resends + coalesce(u.note LIKE 'failover:%', false)::int,
             due_at = greatest(now(), (SELECT m.not_before FROM outbox.message m WHERE m.id = u.message_id)),
             content_sha256 = CASE WHEN u.open_doubts = 0 THEN NULL ELSE u.content_sha256 END
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no;
      PERFORM outbox.audit_entry('release', q.message_id, q.recipient_no, NULL, release.reason, 'held', 'pending');
      result := 'pending';
    ELSE
      result := format('nothing to release: it is %s', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until));
    END IF;
    RETURN NEXT;
  END LOOP;
  IF NOT known THEN
    IF NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = release.id) THEN PERFORM outbox.unknown_delivery('release', release.id, NULL); END IF;
    RETURN QUERY SELECT d.recipient_no::int, 'nothing to release: it is ' || d.state FROM outbox.done d WHERE d.message_id = release.id ORDER BY 1;
  END IF;
END $$;

CREATE FUNCTION outbox.release_failover(reason text, batch integer DEFAULT 10000) RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
  released bigint;
  behind bigint;
BEGIN
  PERFORM outbox.require_reason('release_failover', release_failover.reason);
  WITH page AS (
    SELECT x.message_id, x.recipient_no FROM outbox.lanes() AS l(lane)
    CROSS JOIN LATERAL (SELECT q.message_id, q.recipient_no FROM outbox.queue q
                        WHERE q.lane = l.lane AND q.due_at = 'infinity' AND q.parked IN ('held', 'ordered') AND q.note LIKE 'failover:%'
                        ORDER BY q.message_id, q.recipient_no LIMIT greatest(batch, 1)) x
    LIMIT greatest(batch, 1)
  ),
  freed AS (
    UPDATE outbox.queue q
    SET parked = CASE WHEN q.parked = 'ordered' THEN 'ordered' END, note = NULL, claims = 0, resends = q.resends + 1,
        due_at = CASE WHEN q.parked = 'ordered' THEN 'infinity' ELSE greatest(now(), outbox.not_before_of(q.message_id)) END,
        content_sha256 = CASE WHEN q.open_doubts = 0 THEN NULL ELSE q.content_sha256 END
    FROM page p
    WHERE q.message_id = p.message_id AND q.recipient_no = p.recipient_no AND q.intent IS NULL AND q.parked IN ('held', 'ordered') AND q.note LIKE 'failover:%'
    RETURNING q.parked
  )
  SELECT count(*) FILTER (WHERE f.parked IS NULL), count(*) FILTER (WHERE f.parked IS NOT NULL) INTO released, behind FROM freed f;
  IF released + behind > 0 THEN
    PERFORM outbox.audit_entry('release failover', NULL, NULL, NULL, release_failover.reason, 'held', released || ' pending');
  END IF;
  -- Only rows that wait behind their key were left in this batch: there may be more.
  RETURN CASE WHEN released = 0 AND behind > 0 THEN outbox.release_failover(reason, batch) ELSE released END;
END $$;
COMMENT ON FUNCTION outbox.release_failover(text, integer) IS
'Lets everything go on that was held because of a failover, a batch per call: call it until it answers 0. What had been sent by a server that was lost is sent again: look at outbox.deliveries first. Example:
  SELECT outbox.release_failover(''checked against the log of mx1'');';

-- Arming -------------------------------------------------------------------------------------------------------------
DROP FUNCTION outbox.arm(text);
CREATE FUNCTION outbox.arm(reason text, hold_pending boolean DEFAULT NULL)
RETURNS TABLE (identity text, previous_identity text, epoch uuid, cause text, held bigint, in_doubt bigint, sending bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  here text := outbox.database_identity();
  old outbox.control;
BEGIN
  PERFORM outbox.require_reason('arm', arm.reason);
  PERFORM set_config('synchronous_commit', outbox.durable_commit(), true);
  SELECT * INTO old FROM outbox.control FOR UPDATE;
  IF NOT outbox.address_is_known() THEN
    PERFORM outbox.suspect_copy();
  ELSIF arm.hold_pending THEN
    PERFORM outbox.notice(old.epoch, here, 'asked for');
  END IF;
  IF arm.hold_pending IS DISTINCT FROM false THEN
    WHILE NOT (SELECT q.finished FROM outbox.quarantine(50000) q) LOOP NULL; END LOOP;
  ELSE
    UPDATE outbox.failover f SET completed_at = now() WHERE f.epoch = old.epoch AND f.identity = here AND f.completed_at IS NULL;
  END IF;
  SELECT f.cause, f.held INTO cause, held FROM outbox.failover f WHERE f.epoch = old.epoch AND f.identity = here;
  held := coalesce(held, 0);
  SELECT count(*) FILTER (WHERE q.parked = 'doubt'), count(*) FILTER (WHERE q.parked IS NULL) INTO in_doubt, sending FROM outbox.queue q WHERE q.intent IS NOT NULL;
  INSERT INTO outbox.arming AS a (epoch, identity, armed_at, armed_by, reason) VALUES (old.epoch, old.identity, old.armed_at, old.armed_by, 'before') ON CONFLICT DO NOTHING;
  UPDATE outbox.control c SET epoch = gen_random_uuid(), identity = here, armed_at = now(), armed_by = session_user RETURNING c.epoch INTO epoch;
  INSERT INTO outbox.arming AS a (epoch, identity, reason, considered)
  VALUES (epoch, here, arm.reason, arm.hold_pending IS NOT NULL OR EXISTS (SELECT FROM outbox.failover f WHERE f.epoch = old.epoch AND f.identity = here));
  DELETE FROM outbox.armed_address;
  PERFORM outbox.audit_entry(CASE WHEN arm.hold_pending IS DISTINCT FROM false THEN 'arm' ELSE 'arm, continue' END, NULL, NULL, NULL, arm.reason, old.identity, here);
  identity := here; previous_identity := old.identity;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION outbox.arm(text, boolean) IS
'After a failover, a restore or a clone: declares that this database is the one to send from. Relays that run go on by themselves. On another server than the armed one everything is held that may have been sent before the switch (hold_pending => false: not, right only when no commit was lost; hold_pending => true: also on the same server, after a snapshot was restored in place); look at it, then release() or cancel() it, or release_failover() all. Example:
  SELECT * FROM outbox.arm(''db1 is gone, db2 was promoted'');';

CREATE FUNCTION outbox.continue_after_failover(p_epoch uuid, p_relay uuid, p_beat bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here text := outbox.database_identity();
  c outbox.control;
BEGIN
  SELECT * INTO c FROM outbox.control FOR UPDATE;
  -- A later timeline of the same server and database, with this relay's last heartbeat in it: a failover that lost nothing,
  -- as far as one can see from here. Anything else (a restore, a copy) needs a person.
  IF c.epoch IS DISTINCT FROM p_epoch OR split_part(c.identity, '/', 1) <> split_part(here, '/', 1) OR split_part(c.identity, '/', 3) <> split_part(here, '/', 3)
     OR split_part(here, '/', 2) <= split_part(c.identity, '/', 2)
     OR NOT EXISTS (SELECT FROM outbox.relay r WHERE r.incarnation = p_relay AND r.beat >= p_beat) THEN
    RETURN false;
  END IF;
  PERFORM outbox.arm('policy after_failover = continue', hold_pending => false);
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.continue_after_failover(uuid, uuid, bigint) IS 'What relays with after_failover = "continue" do: arm a later timeline of the same database by themselves, holding nothing. Refused (false) where the relay''s own last heartbeat is missing.';

-- Re-assertion -------------------------------------------------------------------------------------------------------
-- One attempt from a relay's memory, against whatever this server knows. Late truth as in settle_late(); besides, it restores
-- what an asynchronous failover has forgotten. Answers
--   restored  the mark or the outcome was missing and is there now,   settled  the attempt still owned its delivery,
--   noted, already   as settle_late(),   sending   its intent is here, its reply is outstanding,
--   missing   the message itself is gone,   stranger   this is not the outbox the relay means.
CREATE FUNCTION outbox.reassert_one(
  p_related boolean, p_relay uuid, p_message_id uuid, p_recipient_no smallint, p_lease uuid, p_token uuid, p_intended boolean, p_verdict text, p_after interval,
  p_reason text, p_outcome text, p_phase text, p_cause text, p_code smallint, p_enhanced text, p_reply text, p_detail text, p_route text, p_server text,
  p_asked_at timestamptz, p_bytes int)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  finished boolean;
  known text;  -- what the ledger says of this attempt
  answer text;
BEGIN
  SELECT * INTO q FROM outbox.queue x WHERE x.message_id = p_message_id AND x.recipient_no = p_recipient_no FOR UPDATE;
  IF q.message_id IS NULL THEN
    finished := EXISTS (SELECT FROM outbox.done d WHERE d.message_id = p_message_id AND d.recipient_no = p_recipient_no);
    IF NOT finished AND NOT EXISTS (SELECT FROM outbox.message m WHERE m.id = p_message_id) THEN
      IF NOT p_related THEN RETURN 'stranger'; END IF;
      IF NOT EXISTS (SELECT FROM outbox.audit a WHERE a.message_id = p_message_id AND a.token = p_token AND a.action = 'lost by a failover') THEN
        PERFORM outbox.audit_entry('lost by a failover', p_message_id, p_recipient_no, p_token, 'its enqueue is not in this database',
                                   CASE WHEN p_outcome IS NOT NULL THEN p_outcome ELSE 'sending' END, NULL);
      END IF;
      RETURN 'missing';
    END IF;
  END IF;
  SELECT a.outcome INTO known FROM outbox.attempt a WHERE a.message_id = p_message_id AND a.recipient_no = p_recipient_no AND a.token = p_token;
  IF q.intent = p_token THEN
    IF p_verdict IS NULL THEN
      RETURN CASE WHEN q.parked = 'doubt' THEN 'already' ELSE 'sending' END;
    END IF;
    -- Still its own: what settle does, one row.
    INSERT INTO outbox.attempt AS a (message_id, recipient_no, token, attempt_no, outcome, phase, cause, code, enhanced, reply, detail, route, server, relay, started_at, bytes)
    VALUES (p_message_id, p_recipient_no, p_token, q.attempt_no + 1, p_outcome, p_phase, p_cause, p_code, p_enhanced, p_reply, p_detail, p_route, p_server, p_relay, p_asked_at, p_bytes)
    ON CONFLICT (message_id, recipient_no, token) DO UPDATE
      SET outcome = excluded.outcome, phase = excluded.phase, cause = excluded.cause, code = excluded.code, enhanced = excluded.enhanced,
          reply = excluded.reply, detail = excluded.detail, route = excluded.route, server = excluded.server, finished_at = excluded.finished_at, bytes = excluded.bytes
      WHERE a.outcome = 'unknown';
    q.open_doubts := greatest(q.open_doubts + (p_outcome = 'unknown')::int - (q.parked IS NOT DISTINCT FROM 'doubt')::int, 0);
    IF q.accepted_late IS NOT NULL THEN
      PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts);
    ELSIF p_verdict IN ('sent', 'failed', 'expired') THEN
      q.attempt_no := q.attempt_no + (p_verdict <> 'expired')::int;
      PERFORM outbox.finish(q, p_verdict, CASE WHEN p_verdict = 'sent' THEN 'reply' END, coalesce(p_reason, 'restored after a failover'), p_token, q.open_doubts);
    ELSIF p_verdict = 'in_doubt' THEN
      IF q.parked = 'doubt' THEN RETURN 'already'; END IF;
      UPDATE outbox.queue u SET parked = 'doubt', due_at = 'infinity', doubt_since = now(), doubt_by = 'relay', lease = NULL, lease_until = NULL,
             note = p_reason, open_doubts = q.open_doubts, attempt_no = u.attempt_no + 1
      WHERE u.message_id = p_message_id AND u.recipient_no = p_recipient_no;
    ELSE
      UPDATE outbox.queue u SET parked = CASE WHEN p_verdict IN ('held', 'poison') THEN p_verdict END, note = p_reason,
             due_at = CASE WHEN p_verdict IN ('held', 'poison') THEN 'infinity' ELSE now() + p_after END,
             lease = NULL, lease_until = NULL, intent = NULL, intent_by = NULL, intent_at = NULL, doubt_since = NULL, doubt_by = NULL, open_doubts = q.open_doubts
      WHERE u.message_id = p_message_id AND u.recipient_no = p_recipient_no;
    END IF;
    RETURN 'settled';
  END IF;
  IF q.message_id IS NOT NULL AND q.intent IS NULL AND known IS NULL AND (p_outcome = 'unknown' OR p_verdict IS NULL AND p_intended) THEN
    -- The mark was lost: it is on the wire, or was, and must not be handed out again.
    INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, cause, code, enhanced, reply, detail, route, server, relay, started_at, bytes)
    VALUES (p_message_id, p_recipient_no, p_token, q.attempt_no + 1, 'unknown', coalesce(p_phase, 'end_marker'), coalesce(p_cause, 'io'), p_code, p_enhanced, p_reply,
            coalesce(p_detail, 'its reply was outstanding when the database failed over'), p_route, p_server, p_relay, p_asked_at, p_bytes);
    UPDATE outbox.queue u SET parked = 'doubt', due_at = 'infinity', doubt_since = now(),
           -- Its reply may still come: as for a relay that vanished, nothing is decided too early.
           doubt_by = CASE WHEN p_verdict IS NULL THEN 'reaper' ELSE 'relay' END,
           note = 'restored after a failover: ' || coalesce(p_reason, 'its reply was outstanding'),
           intent = p_token, intent_by = p_relay, intent_at = p_asked_at, first_intent_at = coalesce(u.first_intent_at, p_asked_at), pinned_route = coalesce(u.pinned_route, p_route),
           intents = u.intents + 1::smallint, open_doubts = u.open_doubts + 1, lease = NULL, lease_until = NULL
    WHERE u.message_id = p_message_id AND u.recipient_no = p_recipient_no;
    RETURN 'restored';
  END IF;
  IF p_verdict IS NULL THEN
    RETURN CASE WHEN known IS NULL AND p_intended THEN outbox.settle_late(p_message_id, p_recipient_no, p_lease, p_token, true, 'unknown', 'end_marker', 'io', NULL, NULL, NULL,
      'its reply was outstanding when the database failed over', p_route, p_server, p_relay, p_asked_at, p_bytes) ELSE 'already' END;
  END IF;
  IF q.message_id IS NOT NULL AND q.intent IS NULL AND p_verdict = 'failed' AND coalesce(known, 'unknown') = 'unknown' THEN
    INSERT INTO outbox.attempt AS a (message_id, recipient_no, token, attempt_no, outcome, phase, cause, code, enhanced, reply, detail, route, server, relay, started_at, bytes)
    VALUES (p_message_id, p_recipient_no, p_token, q.attempt_no + 1, p_outcome, p_phase, p_cause, p_code, p_enhanced, p_reply, p_detail, p_route, p_server, p_relay, p_asked_at, p_bytes)
    ON CONFLICT (message_id, recipient_no, token) DO UPDATE SET outcome = excluded.outcome, phase = excluded.phase, code = excluded.code, reply = excluded.reply, finished_at = excluded.finished_at;
    q.open_doubts := greatest(q.open_doubts - (known IS NOT NULL)::int, 0);
    PERFORM outbox.finish(q, 'failed', NULL, p_reason, p_token, q.open_doubts);
    RETURN 'restored';
  END IF;
  -- A lease that is still there must not make it "again": this attempt is at its end.
  IF q.message_id IS NOT NULL AND q.intent IS NULL AND q.lease = p_lease THEN
    UPDATE outbox.queue u SET lease = NULL, lease_until = NULL WHERE u.message_id = p_message_id AND u.recipient_no = p_recipient_no;
  END IF;
  answer := outbox.settle_late(p_message_id, p_recipient_no, p_lease, p_token, true, p_outcome, p_phase, p_cause, p_code, p_enhanced, p_reply, p_detail,
                               p_route, p_server, p_relay, p_asked_at, p_bytes);
  RETURN CASE WHEN answer = 'settled' AND known IS NULL THEN 'restored' ELSE answer END;
END $$;
COMMENT ON FUNCTION outbox.reassert_one(boolean, uuid, uuid, smallint, uuid, uuid, boolean, text, interval, text, text, text, text, smallint, text, text, text, text, text, timestamptz, int) IS
  'Private: one attempt of outbox.reassert().';

CREATE FUNCTION outbox.reassert(
  p_epoch uuid, p_relays uuid[], p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_intended boolean[], p_verdicts text[], p_after_s float8[],
  p_reasons text[], p_outcomes text[], p_phases text[], p_causes text[], p_codes smallint[], p_enhanced text[], p_replies text[], p_details text[], p_routes text[], p_servers text[],
  p_age_s float8[], p_bytes int[])
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, answer text) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  related boolean := EXISTS (SELECT FROM outbox.arming a WHERE a.epoch = p_epoch) OR EXISTS (SELECT FROM outbox.control c WHERE c.epoch = p_epoch);
BEGIN
  PERFORM set_config('synchronous_commit', outbox.durable_commit(), true);
  -- In the order they were given, which is that of their intents: the head of an ordering key before what comes behind it.
  FOR i IN 1 .. coalesce(array_length(p_tokens, 1), 0) LOOP
    message_id := p_message_ids[i]; recipient_no := p_recipient_nos[i]; token := p_tokens[i];
    answer := outbox.reassert_one(related, p_relays[i], p_message_ids[i], p_recipient_nos[i], p_leases[i], p_tokens[i], p_intended[i], p_verdicts[i], p_after_s[i] * interval '1 second',
      p_reasons[i], p_outcomes[i], p_phases[i], p_causes[i], p_codes[i], p_enhanced[i], p_replies[i], p_details[i], p_routes[i], p_servers[i],
      clock_timestamp() - p_age_s[i] * interval '1 second', p_bytes[i]);
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.reassert(uuid, uuid[], uuid[], smallint[], uuid[], uuid[], boolean[], text[], float8[], text[], text[], text[], text[], smallint[], text[], text[], text[], text[], text[], float8[], int[]) IS
  'What a relay remembers of its attempts, against what this database knows: outcomes and intents that a failover has lost are restored. Needs no arming. Idempotent; late truth wins.';
INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{assert_continues,descends_from,address_is_known,note_address,addresses,own_address,disarm,suspect_copy,continue_after_failover,reassert,uuid_floor}'::text[]),
  ('outbox_relay outbox_operator', 'EXECUTE', '{quarantine}'),
  ('outbox_operator outbox_viewer outbox_monitor', 'EXECUTE', '{armed_state}'),
  ('outbox_operator', 'EXECUTE', '{release_failover}');
SELECT outbox.grant_roles();
