-- breaking: no
-- What people decide: resolve, cancel, retry, hold, release. Each locks the row, so that it races fairly with intend:
-- whoever commits first wins. Each writes one row of outbox.audit per delivery.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.audit_entry(p_action text, p_message_id uuid, p_recipient_no int, p_token uuid, p_reason text, p_before text, p_after text)
RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO outbox.audit (action, message_id, recipient_no, token, reason, before, after)
  VALUES (p_action, p_message_id, p_recipient_no, p_token, p_reason, p_before, p_after)
$$;
COMMENT ON FUNCTION outbox.audit_entry(text, uuid, int, uuid, text, text, text) IS 'Private: one row of outbox.audit.';

CREATE FUNCTION outbox.require_reason(p_function text, p_reason text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF p_reason IS NULL OR btrim(p_reason) = '' THEN
    RAISE EXCEPTION USING ERRCODE = '22H50', MESSAGE = format('outbox.%s: reason: is required', p_function), COLUMN = 'reason',
      HINT = 'say why in a few words; they are kept in outbox.audit';
  END IF;
END $$;
COMMENT ON FUNCTION outbox.require_reason(text, text) IS 'Private: decisions need a reason.';

CREATE FUNCTION outbox.unknown_delivery(p_function text, p_id uuid, p_recipient_no int) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '22H51', MESSAGE = format('outbox.%s: id: there is no delivery %s/%s', p_function, p_id, coalesce(p_recipient_no::text, '*')), COLUMN = 'id',
    HINT = 'list deliveries with: SELECT message_id, recipient_no, state FROM outbox.deliveries ORDER BY created_at DESC LIMIT 50';
END $$;
COMMENT ON FUNCTION outbox.unknown_delivery(text, uuid, int) IS 'Private: raises 22H51.';

-- Until when the attempt behind a doubt may still be alive. A relay that settled "unknown" itself had closed the
-- connection before; one that was reaped may be paused and wake up.
CREATE FUNCTION outbox.may_be_alive_until(p_doubt_by text, p_doubt_since timestamptz, p_relay uuid) RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN p_doubt_by IS DISTINCT FROM 'reaper' THEN NULL
    WHEN EXISTS (SELECT FROM outbox.relay r WHERE r.incarnation = p_relay AND r.signed_off_at IS NOT NULL) THEN NULL
    ELSE p_doubt_since + coalesce((SELECT r.doubt_grace FROM outbox.relay r WHERE r.incarnation = p_relay), interval '15 minutes') END
$$;
COMMENT ON FUNCTION outbox.may_be_alive_until(text, timestamptz, uuid) IS 'Until when the attempt behind a doubt could still transmit or read a reply; NULL when it certainly cannot.';

CREATE FUNCTION outbox.resolve_doubt(p_id uuid, p_recipient_no int, p_verdict text, p_reason text, p_token uuid, p_force boolean, p_evidence text)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  d outbox.done;
  alive_until timestamptz;
BEGIN
  IF p_verdict IS NULL OR p_verdict NOT IN ('sent', 'resend', 'failed') THEN
    RAISE EXCEPTION USING ERRCODE = '22H52', MESSAGE = format('outbox.resolve: verdict: %L is not sent, resend or failed', left(p_verdict, 20)), COLUMN = 'verdict',
      HINT = 'sent: it arrived; resend: send it again; failed: it did not arrive and shall not be sent again';
  END IF;
  PERFORM outbox.require_reason('resolve', p_reason);
  SELECT * INTO q FROM outbox.queue WHERE message_id = p_id AND recipient_no = p_recipient_no FOR UPDATE;
  IF NOT FOUND THEN
    SELECT * INTO d FROM outbox.done WHERE message_id = p_id AND recipient_no = p_recipient_no;
    IF NOT FOUND THEN PERFORM outbox.unknown_delivery('resolve', p_id, p_recipient_no); END IF;
    RETURN format('nothing to resolve: it is %s', d.state);
  END IF;
  IF p_token IS NOT NULL AND p_token IS DISTINCT FROM q.intent THEN
    RETURN format('nothing to resolve: the doubt of %s has been decided before', p_token);
  END IF;
  IF q.parked IS DISTINCT FROM 'doubt' THEN
    RETURN format('nothing to resolve: it is %s', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until));
  END IF;
  IF q.accepted_late IS NOT NULL THEN
    PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts);
    RETURN 'sent: an earlier attempt of it was accepted';
  END IF;
  IF p_token IS NULL AND q.prev_intent IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22H53', MESSAGE = 'outbox.resolve: token: is required, a doubt of this delivery was decided before', COLUMN = 'token',
      HINT = format('look at outbox.in_doubt again; to decide the doubt that is open now, pass token => %L', q.intent);
  END IF;
  alive_until := outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by);
  IF p_verdict <> 'sent' AND alive_until > now() AND NOT coalesce(p_force, false) THEN
    RAISE EXCEPTION USING ERRCODE = '22H54', MESSAGE = format('outbox.resolve: verdict: too early for %s, the attempt may be alive until %s', p_verdict, date_trunc('second', alive_until)), COLUMN = 'verdict',
      HINT = 'wait, or pass force => true when you know that the relay''s process is gone';
  END IF;
  PERFORM outbox.audit_entry('resolve ' || p_verdict, q.message_id, q.recipient_no, q.intent, p_reason, 'in_doubt',
                             CASE p_verdict WHEN 'resend' THEN 'pending' ELSE p_verdict END);
  IF p_verdict = 'resend' THEN
    UPDATE outbox.queue SET parked = NULL, due_at = now(), note = NULL, prev_intent = intent, intent = NULL, intent_by = NULL, intent_at = NULL,
           lease = NULL, lease_until = NULL, doubt_since = NULL, doubt_by = NULL, resends = resends + 1
    WHERE message_id = q.message_id AND recipient_no = q.recipient_no;
    RETURN 'pending: it will be sent again';
  END IF;
  PERFORM outbox.finish(q, p_verdict, CASE p_verdict WHEN 'sent' THEN p_evidence END, p_reason, q.intent, q.open_doubts);
  RETURN p_verdict;
END $$;
COMMENT ON FUNCTION outbox.resolve_doubt(uuid, int, text, text, uuid, boolean, text) IS 'Private: what outbox.resolve() and the relay''s doubt policies do.';

CREATE FUNCTION outbox.resolve(id uuid, recipient_no int, verdict text, reason text, token uuid DEFAULT NULL, force boolean DEFAULT false)
RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT outbox.resolve_doubt(id, recipient_no, verdict, reason, token, force, 'operator')
$$;
COMMENT ON FUNCTION outbox.resolve(uuid, int, text, text, uuid, boolean) IS
  'Decides a doubt: sent (it arrived), resend (send it again), failed (it did not arrive). Pass the token shown in outbox.in_doubt, so that a script run twice cannot decide the doubt of the next attempt; repeating it is a no-op that says so. resend and failed are refused while the attempt may still be alive, unless forced.';

CREATE FUNCTION outbox.cancel(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  handled int[] := '{}';
BEGIN
  PERFORM outbox.require_reason('cancel', cancel.reason);
  -- All at once, not row by row from a cursor: ending one frees the next of an ordering key, and a cursor passes over rows
  -- that its own transaction has changed meanwhile.
  FOREACH q IN ARRAY ARRAY(SELECT x FROM outbox.queue x WHERE x.message_id = cancel.id ORDER BY x.recipient_no FOR UPDATE) LOOP
    handled := handled || q.recipient_no::int;
    recipient_no := q.recipient_no;
    IF q.accepted_late IS NOT NULL AND (q.intent IS NULL OR q.parked = 'doubt') THEN
      PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts);
      result := 'too late: sent';
    ELSIF q.parked = 'doubt' THEN
      result := 'too late: in doubt, decide it with outbox.resolve()';
    ELSIF q.intent IS NOT NULL THEN
      result := 'too late: in flight';
    ELSE
      PERFORM outbox.audit_entry('cancel', q.message_id, q.recipient_no, NULL, cancel.reason, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until), 'cancelled');
      -- The token keeps in mind that a doubt was decided before: should it be retried, resolve() asks which one is meant.
      PERFORM outbox.finish(q, 'cancelled', NULL, cancel.reason, q.prev_intent, q.open_doubts);
      result := 'cancelled';
    END IF;
    RETURN NEXT;
  END LOOP;
  RETURN QUERY SELECT d.recipient_no::int, CASE d.state WHEN 'cancelled' THEN 'already cancelled' ELSE 'too late: ' || d.state END
    FROM outbox.done d WHERE d.message_id = cancel.id AND d.recipient_no <> ALL (handled) ORDER BY 1;
  IF NOT FOUND AND handled = '{}' THEN PERFORM outbox.unknown_delivery('cancel', cancel.id, NULL); END IF;
END $$;
COMMENT ON FUNCTION outbox.cancel(uuid, text) IS 'Cancels the deliveries of a message that are not yet sending. One row per delivery: cancelled, already cancelled, or too late and why.';

CREATE FUNCTION outbox.retry(id uuid, recipient_no int DEFAULT NULL, reason text DEFAULT 'retry', force boolean DEFAULT false) RETURNS TABLE (delivery int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  d outbox.done;
  known boolean := false;
  due timestamptz;
BEGIN
  PERFORM outbox.require_reason('retry', retry.reason);
  FOR q IN SELECT x.* FROM outbox.queue x WHERE x.message_id = retry.id AND (retry.recipient_no IS NULL OR x.recipient_no = retry.recipient_no) ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    delivery := q.recipient_no;
    IF q.parked IS NULL AND q.intent IS NULL THEN
      -- Now, but never before the message wanted to be sent.
      UPDATE outbox.queue u SET due_at = least(u.due_at, greatest(now(), outbox.not_before_of(u.message_id)))
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no RETURNING u.due_at INTO due;
      PERFORM outbox.audit_entry('retry', q.message_id, q.recipient_no, NULL, retry.reason, 'pending', 'pending');
      result := CASE WHEN due > now() THEN format('pending: not before %s', date_trunc('second', due)) ELSE 'pending: due now' END;
    ELSE
      result := format('nothing to retry: it is %s', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until))
        || CASE WHEN q.parked = 'doubt' THEN ', decide it with outbox.resolve()' WHEN q.parked IN ('held', 'poison') THEN ', release it with outbox.release()' ELSE '' END;
    END IF;
    RETURN NEXT;
  END LOOP;
  FOR d IN SELECT x.* FROM outbox.done x WHERE x.message_id = retry.id AND (retry.recipient_no IS NULL OR x.recipient_no = retry.recipient_no) ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    delivery := d.recipient_no;
    IF d.state = 'sent' THEN
      result := 'nothing to retry: it is sent';
    ELSIF d.open_doubts > 0 AND NOT coalesce(retry.force, false) THEN
      result := format('refused: %s with %s open doubt(s), it may have arrived; a retry would be a resend: pass force => true when you want it', d.state, d.open_doubts);
    ELSE
      PERFORM outbox.audit_entry(CASE WHEN d.open_doubts > 0 THEN 'retry as resend' ELSE 'retry' END, d.message_id, d.recipient_no, d.token, retry.reason, d.state, 'pending');
      d.resends := d.resends + (d.open_doubts > 0)::int;
      PERFORM outbox.reopen(d, NULL, NULL);
      due := outbox.not_before_of(d.message_id);
      result := 'pending: it was ' || d.state || CASE WHEN due > now() THEN format(', not before %s', date_trunc('second', due)) ELSE '' END;
    END IF;
    RETURN NEXT;
  END LOOP;
  IF NOT known THEN PERFORM outbox.unknown_delivery('retry', retry.id, retry.recipient_no); END IF;
END $$;
COMMENT ON FUNCTION outbox.retry(uuid, int, text, boolean) IS 'Makes failed, cancelled or expired deliveries pending again, and pending ones due now (never before their not_before). With open doubts it is a resend and needs force.';

CREATE FUNCTION outbox.hold(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  known boolean := false;
BEGIN
  PERFORM outbox.require_reason('hold', hold.reason);
  FOR q IN SELECT x.* FROM outbox.queue x WHERE x.message_id = hold.id ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    recipient_no := q.recipient_no;
    IF q.intent IS NOT NULL THEN
      result := CASE WHEN q.parked = 'doubt' THEN 'too late: in doubt' ELSE 'too late: in flight' END;
    ELSIF q.parked = 'ordered' THEN
      result := 'nothing to hold: it waits behind its ordering key; hold the head of the key';
    ELSE
      UPDATE outbox.queue u SET parked = 'held', due_at = 'infinity', note = hold.reason, lease = NULL, lease_until = NULL
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no;
      PERFORM outbox.audit_entry('hold', q.message_id, q.recipient_no, NULL, hold.reason, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until), 'held');
      result := 'held';
    END IF;
    RETURN NEXT;
  END LOOP;
  IF NOT known THEN
    IF NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = hold.id) THEN PERFORM outbox.unknown_delivery('hold', hold.id, NULL); END IF;
    RETURN QUERY SELECT d.recipient_no::int, 'nothing to hold: it is ' || d.state FROM outbox.done d WHERE d.message_id = hold.id ORDER BY 1;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.hold(uuid, text) IS 'Stops the deliveries of a message that are not yet sending, until outbox.release(). One row per delivery with what was done.';

CREATE FUNCTION outbox.release(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
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
      UPDATE outbox.queue u SET parked = NULL, note = NULL, claims = 0,
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
COMMENT ON FUNCTION outbox.release(uuid, text) IS 'Lets held deliveries of a message go on. One row per delivery with what was done.';

CREATE FUNCTION outbox.arm(reason text) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  old outbox.control;
BEGIN
  PERFORM outbox.require_reason('arm', arm.reason);
  SELECT * INTO old FROM outbox.control FOR UPDATE;
  UPDATE outbox.control SET epoch = gen_random_uuid(), identity = outbox.database_identity(), armed_at = now(), armed_by = session_user;
  PERFORM outbox.audit_entry('arm', NULL, NULL, NULL, arm.reason, old.identity, outbox.database_identity());
  RETURN outbox.database_identity();
END $$;
COMMENT ON FUNCTION outbox.arm(text) IS
  'After a failover, a restore or a clone: declares that this database is the one to send from. Relays armed for the old one stop; those started now send what is due here. Before you call it: whatever the old server did after the point this one knows may have been sent already; hold() it or cancel() it first.';
