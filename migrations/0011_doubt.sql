-- breaking: no
-- Doubt, handled: what a person needs to find out, decisions for many, evidence from a mail server's log, and a grace that no wall clock can end.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.route ADD COLUMN host text, ADD COLUMN host_since timestamptz;
COMMENT ON COLUMN outbox.route.host IS 'The mail server of the route as the relay that registered it last is configured, smtp.example.com say: where the attempt of a relay that vanished must have gone. NULL for routes into a directory.';
COMMENT ON COLUMN outbox.route.host_since IS 'Since when that is so: what was attempted before may have gone elsewhere.';

-- A doubt's grace is over when a reaper has watched it for that long by its own monotonic clock: a database whose clock
-- jumps must not make a resend possible while the first attempt may be alive. A table of its own, and not a column of
-- outbox.queue, because it is written once for very few deliveries.
CREATE TABLE outbox.doubt_over (
  token uuid PRIMARY KEY,
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  observed_by uuid NOT NULL,
  observed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE outbox.doubt_over IS 'Doubts whose attempt can no longer be alive: a relay has watched each for the whole grace of the relay that vanished, by its own monotonic clock. Private; cleared by outbox.doubts_over().';

CREATE FUNCTION outbox.doubts_over(p_message_ids uuid[], p_recipient_nos smallint[], p_tokens uuid[], p_observer uuid) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  noted bigint;
BEGIN
  DELETE FROM outbox.doubt_over o
  WHERE NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = o.message_id AND q.recipient_no = o.recipient_no AND q.intent = o.token);
  INSERT INTO outbox.doubt_over (token, message_id, recipient_no, observed_by)
  SELECT t.token, t.message_id, t.recipient_no, p_observer
  FROM unnest(p_message_ids, p_recipient_nos, p_tokens) AS t (message_id, recipient_no, token)
  JOIN outbox.queue q ON q.message_id = t.message_id AND q.recipient_no = t.recipient_no AND q.intent = t.token AND q.parked = 'doubt'
  ON CONFLICT (token) DO NOTHING;
  GET DIAGNOSTICS noted = ROW_COUNT;
  RETURN noted;
END $$;
COMMENT ON FUNCTION outbox.doubts_over(uuid[], smallint[], uuid[], uuid) IS 'The reaper''s word that it has watched these doubts for their whole grace by its own monotonic clock: their attempts can no longer be alive. Forgets those that have been decided.';

CREATE FUNCTION outbox.may_be_alive(p_doubt_by text, p_relay uuid, p_token uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT p_doubt_by IS NOT DISTINCT FROM 'reaper'
     AND NOT EXISTS (SELECT FROM outbox.relay r WHERE r.incarnation = p_relay AND r.signed_off_at IS NOT NULL)
     AND NOT EXISTS (SELECT FROM outbox.doubt_over o WHERE o.token = p_token)
$$;
COMMENT ON FUNCTION outbox.may_be_alive(text, uuid, uuid) IS 'Whether the attempt behind a doubt could still transmit or read a reply. No clock is compared: it cannot when its relay said so itself, has signed off, or was watched for the whole grace by another relay.';

CREATE FUNCTION outbox.too_early(p_verdict text, p_doubt_by text, p_doubt_since timestamptz, p_relay uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('too early for %s, the attempt may be alive until ', p_verdict) || CASE
    WHEN u.until > now() THEN date_trunc('second', u.until)::text
    ELSE 'a running relay has watched it for the whole grace, by its own clock' END
  FROM (SELECT outbox.may_be_alive_until(p_doubt_by, p_doubt_since, p_relay) AS until) u
$$;
COMMENT ON FUNCTION outbox.too_early(text, text, timestamptz, uuid) IS 'Private: why a doubt cannot be decided yet, in words.';

-- As in 0007, but for what "may be alive" means.
CREATE OR REPLACE FUNCTION outbox.resolve_doubt(p_id uuid, p_recipient_no int, p_verdict text, p_reason text, p_token uuid, p_force boolean, p_evidence text)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  d outbox.done;
BEGIN
  PERFORM outbox.require_verdict(p_verdict);
  PERFORM outbox.require_reason('resolve', p_reason);
  SELECT * INTO q FROM outbox.queue WHERE message_id = p_id AND recipient_no = p_recipient_no FOR UPDATE;
  IF NOT FOUND THEN
    SELECT * INTO d FROM outbox.done WHERE message_id = p_id AND recipient_no = p_recipient_no;
    IF NOT FOUND THEN PERFORM outbox.unknown_delivery('resolve', p_id, p_recipient_no); END IF;
    RETURN format('nothing to resolve: it is %s', d.state);
  END IF;
  IF p_token IS NOT NULL AND p_token IS DISTINCT FROM q.intent THEN
    IF p_token IS DISTINCT FROM q.prev_intent
       AND NOT EXISTS (SELECT FROM outbox.attempt a WHERE a.message_id = q.message_id AND a.recipient_no = q.recipient_no AND a.token = p_token)
       AND NOT EXISTS (SELECT FROM outbox.audit a WHERE a.message_id = q.message_id AND a.recipient_no = q.recipient_no AND a.token = p_token) THEN
      RETURN format('nothing to resolve: the token %s is not of this delivery', p_token);
    END IF;
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
  IF p_verdict <> 'sent' AND NOT coalesce(p_force, false) AND outbox.may_be_alive(q.doubt_by, q.intent_by, q.intent) THEN
    RAISE EXCEPTION USING ERRCODE = '22H54', MESSAGE = 'outbox.resolve: verdict: ' || outbox.too_early(p_verdict, q.doubt_by, q.doubt_since, q.intent_by), COLUMN = 'verdict',
      HINT = 'wait with a relay running, or pass force => true when you know that the relay''s process is gone';
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

CREATE FUNCTION outbox.require_verdict(p_verdict text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF p_verdict IS NULL OR p_verdict NOT IN ('sent', 'resend', 'failed') THEN
    RAISE EXCEPTION USING ERRCODE = '22H52', MESSAGE = format('outbox.resolve: verdict: %L is not sent, resend or failed', left(p_verdict, 20)), COLUMN = 'verdict',
      HINT = 'sent: it arrived; resend: send it again; failed: it did not arrive and shall not be sent again';
  END IF;
END $$;
COMMENT ON FUNCTION outbox.require_verdict(text) IS 'Private: raises 22H52.';

-- What to search for. A finished message may bring its own Message-ID; escaped, because its bytes may be anything.
CREATE FUNCTION outbox.own_message_id(raw_message bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (regexp_match((regexp_split_to_array(encode(substr(raw_message, 1, 65536), 'escape'), E'\r?\n\r?\n'))[1],
                     E'(?ni)^message-id[ \t]*:[ \t]*(?:\r?\n[ \t]+)?([^ \t\r\n]+)'))[1];
COMMENT ON FUNCTION outbox.own_message_id(bytea) IS 'The Message-ID that a finished message (raw_message) brings itself, with its angle brackets: <abc@app.example.org>. NULL when it has none; then it begins with the message''s id like all others.';

-- How the relay of a doubt is. By the database's clock, for people; nothing is decided by it.
CREATE FUNCTION outbox.relay_state(p_relay outbox.relay) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
  WHEN p_relay.incarnation IS NULL THEN 'unknown'
  WHEN p_relay.signed_off_at IS NOT NULL THEN 'signed off'
  WHEN now() - p_relay.beat_at <= interval '30 seconds' THEN format('alive, last beat %s s ago', greatest(0, floor(extract(epoch FROM now() - p_relay.beat_at))))
  WHEN now() - p_relay.beat_at < interval '2 minutes' THEN format('silent for %s s', floor(extract(epoch FROM now() - p_relay.beat_at)))
  WHEN now() - p_relay.beat_at < interval '2 hours' THEN format('silent for %s min', floor(extract(epoch FROM now() - p_relay.beat_at) / 60))
  ELSE format('silent for %s h', floor(extract(epoch FROM now() - p_relay.beat_at) / 3600)) END;
COMMENT ON FUNCTION outbox.relay_state(outbox.relay) IS 'How a relay is, in words: signed off; alive, last beat 1 s ago; silent for 3 min; unknown. By the database''s clock, for people.';

CREATE OR REPLACE VIEW outbox.in_doubt AS
SELECT q.message_id, q.recipient_no::int AS recipient_no, q.intent AS token,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[q.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS recipient,
  m.kind, m.tenant, q.doubt_since, now() - q.doubt_since AS age, q.doubt_by AS marked_by,
  r.name AS relay_name, r.host AS relay_host, q.intent_by AS relay_incarnation, r.signed_off_at IS NOT NULL AS relay_signed_off,
  coalesce(q.pinned_route, m.route) AS route, q.message_id::text AS message_id_header, q.intent_at, q.resends::int AS resends,
  outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by) AS may_be_alive_until,
  CASE WHEN outbox.may_see_addresses(current_user) THEN q.note ELSE outbox.mask_text(q.note) END AS note,
  coalesce(a.phase, 'end_marker') AS phase, coalesce(a.server, g.host) AS server,
  CASE WHEN a.server IS NOT NULL THEN 'attempt' WHEN g.host IS NOT NULL THEN 'route' END AS server_known_by,
  outbox.relay_state(r) AS relay_state, outbox.may_be_alive(q.doubt_by, q.intent_by, q.intent) AS may_be_alive,
  'message-id=' || coalesce(
    CASE WHEN m.raw_message IS NULL THEN NULL
         WHEN outbox.may_see_addresses(current_user) THEN outbox.own_message_id(m.raw_message)
         ELSE outbox.mask_text(outbox.own_message_id(m.raw_message)) END,
    '<' || q.message_id) AS search_for,
  least(q.intent_at, q.doubt_since) - interval '10 minutes' AS search_from,
  greatest(q.doubt_since, outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by), q.intent_at + coalesce(r.doubt_grace, interval '15 minutes'))
    + interval '10 minutes' AS search_until,
  q.intents::int AS intents
FROM outbox.lanes() AS l(lane)
CROSS JOIN LATERAL (SELECT x.* FROM outbox.queue x WHERE x.lane = l.lane AND x.due_at = 'infinity' AND x.parked = 'doubt') q
LEFT JOIN outbox.message m ON m.id = q.message_id
LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by
LEFT JOIN outbox.attempt a ON a.message_id = q.message_id AND a.recipient_no = q.recipient_no AND a.token = q.intent
LEFT JOIN outbox.route g ON g.name = coalesce(q.pinned_route, m.route) AND g.host_since <= q.intent_at;
COMMENT ON VIEW outbox.in_doubt IS
'Deliveries whose outcome nobody knows, with what is needed to find out: look for search_for in the log of server between search_from and search_until, then decide with
  SELECT outbox.resolve(message_id, recipient_no, ''sent'' | ''resend'' | ''failed'', ''why'', token);
Example:
  SELECT server, search_for, search_from, search_until, relay_state, token FROM outbox.in_doubt ORDER BY doubt_since;';
COMMENT ON COLUMN outbox.in_doubt.may_be_alive_until IS 'Until when the attempt could still transmit or read a reply, as the database''s clock goes; NULL when it certainly cannot. may_be_alive is what counts.';
COMMENT ON COLUMN outbox.in_doubt.phase IS 'How far the attempt came for certain: end_marker (its intent is durable, the end of the message may have been sent).';
COMMENT ON COLUMN outbox.in_doubt.server IS 'The server the attempt spoke to: host:port (name in its greeting), smtp.example.com:587 (mx1.example.com) say; for a relay that vanished, the host its route is configured with.';
COMMENT ON COLUMN outbox.in_doubt.server_known_by IS 'attempt: the server named itself; route: it is the host in the configuration of the route; NULL: not known.';
COMMENT ON COLUMN outbox.in_doubt.relay_state IS 'Whether the relay of the attempt lives: signed off; alive, last beat 1 s ago; silent for 3 min; unknown (its record is gone).';
COMMENT ON COLUMN outbox.in_doubt.may_be_alive IS 'Whether the attempt itself may still be alive; then resend and failed need force.';
COMMENT ON COLUMN outbox.in_doubt.search_for IS 'What to search for in the mail server''s log, as Postfix writes it: message-id=<0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d (an @ and a domain follow), or the whole Message-ID that a finished message brought itself.';
COMMENT ON COLUMN outbox.in_doubt.search_from IS 'Where in the log to begin: ten minutes before the intent, by the database''s clock: that of the mail server may differ.';
COMMENT ON COLUMN outbox.in_doubt.search_until IS 'Where in the log to end: ten minutes after the attempt was given up, or can no longer be alive, or has taken as long as any may.';
COMMENT ON COLUMN outbox.in_doubt.intents IS 'How many attempts have come to their end marker. With 1 every trace of it in a log is of this attempt.';

-- A person types what the mail server's log shows, or what the configuration says; in_doubt.server has all of it.
CREATE FUNCTION outbox.is_server(p_server text, p_given text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(lower(p_given) = lower(p_server) OR lower(p_given) IN (lower(m[1]), lower(btrim(m[1], '[]')), lower(m[1] || ':' || m[2]))
                  OR (lower(p_given) = lower(m[3]) AND m[3] <> '-'), false)
  FROM (SELECT regexp_match(p_server, '^(.+):([0-9]+)(?: \((.*)\))?$') AS m) s
$$;
COMMENT ON FUNCTION outbox.is_server(text, text) IS 'Private: whether in_doubt.server, smtp.example.com:587 (mx1.example.com) say, is the server that somebody names: by the name in its greeting, its host, host:port, or as it is.';

CREATE FUNCTION outbox.resolve_many(verdict text, reason text, route text DEFAULT NULL, kind text DEFAULT NULL, server text DEFAULT NULL, tenant text DEFAULT NULL,
  older_than interval DEFAULT NULL, newer_than interval DEFAULT NULL, everything boolean DEFAULT false, force boolean DEFAULT false, dry_run boolean DEFAULT false)
RETURNS TABLE (message_id uuid, recipient_no int, token uuid, result text, done boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  f record;
BEGIN
  PERFORM outbox.require_verdict(resolve_many.verdict);
  PERFORM outbox.require_reason('resolve_many', resolve_many.reason);
  IF num_nonnulls(resolve_many.route, resolve_many.kind, resolve_many.server, resolve_many.tenant, resolve_many.older_than, resolve_many.newer_than) = 0
     AND NOT coalesce(resolve_many.everything, false) THEN
    RAISE EXCEPTION USING ERRCODE = '22H55', MESSAGE = 'outbox.resolve_many: nothing says which doubts', COLUMN = 'everything',
      HINT = 'give at least one of route, kind, server, tenant, older_than, newer_than; or everything => true for every doubt there is';
  END IF;
  FOR f IN
    SELECT d.message_id, d.recipient_no, d.token, d.marked_by, d.doubt_since, d.relay_incarnation, d.may_be_alive
    FROM outbox.in_doubt d
    WHERE (resolve_many.route IS NULL OR d.route = resolve_many.route)
      AND (resolve_many.kind IS NULL OR d.kind = resolve_many.kind)
      AND (resolve_many.server IS NULL OR outbox.is_server(d.server, resolve_many.server))
      AND (resolve_many.tenant IS NULL OR d.tenant = resolve_many.tenant)
      AND (resolve_many.older_than IS NULL OR d.age >= resolve_many.older_than)
      AND (resolve_many.newer_than IS NULL OR d.age < resolve_many.newer_than)
    ORDER BY d.message_id, d.recipient_no
  LOOP
    message_id := f.message_id; recipient_no := f.recipient_no; token := f.token;
    done := false;
    IF resolve_many.verdict <> 'sent' AND NOT coalesce(resolve_many.force, false) AND f.may_be_alive THEN
      result := outbox.too_early(resolve_many.verdict, f.marked_by, f.doubt_since, f.relay_incarnation);
    ELSIF resolve_many.dry_run THEN
      result := CASE resolve_many.verdict WHEN 'resend' THEN 'would be sent again' ELSE 'would be ' || resolve_many.verdict END;
      done := true;
    ELSE
      -- Nobody's transaction is waited for, and nothing that a person did not see is decided: by the token.
      PERFORM FROM outbox.queue q WHERE q.message_id = f.message_id AND q.recipient_no = f.recipient_no FOR UPDATE SKIP LOCKED;
      IF FOUND THEN
        result := outbox.resolve_doubt(f.message_id, f.recipient_no, resolve_many.verdict, resolve_many.reason, f.token, true, 'operator');
        done := result NOT LIKE 'nothing to resolve%';
      ELSE
        result := 'skipped: locked by somebody, or gone meanwhile; call again';
      END IF;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.resolve_many(text, text, text, text, text, text, interval, interval, boolean, boolean, boolean) IS
'Decides many doubts alike: those that match every given filter, or all with everything => true. One row per doubt with what was done (done), or why not: an attempt that may still be alive (resend and failed, unless forced), a row that somebody has locked. Each is decided by the token that was seen; each decision is in outbox.audit. Repeating it finds nothing. dry_run => true only shows. Example:
  SELECT * FROM outbox.resolve_many(''resend'', ''mx1 lost its queue'', route => ''default'', older_than => ''10 minutes'');';

-- Evidence about one attempt from elsewhere: a mail server's log, a delivery report. Late truth like a late reply, but
-- known by hearsay: a definite reply outranks it.
CREATE FUNCTION outbox.settle_evidence(id uuid, recipient_no int, token uuid, verdict text, evidence text)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  d outbox.done;
  a outbox.attempt;
  before text;
BEGIN
  IF settle_evidence.verdict IS NULL OR settle_evidence.verdict NOT IN ('accepted', 'not_sent') THEN
    RAISE EXCEPTION USING ERRCODE = '22H52', MESSAGE = format('outbox.settle_evidence: verdict: %L is not accepted or not_sent', left(settle_evidence.verdict, 20)), COLUMN = 'verdict',
      HINT = 'accepted: the mail server took it; not_sent: it certainly did not, and it shall be sent again';
  END IF;
  PERFORM outbox.require_reason('settle_evidence', settle_evidence.evidence);
  SELECT * INTO q FROM outbox.queue x WHERE x.message_id = settle_evidence.id AND x.recipient_no = settle_evidence.recipient_no FOR UPDATE;
  IF NOT FOUND THEN
    SELECT * INTO d FROM outbox.done x WHERE x.message_id = settle_evidence.id AND x.recipient_no = settle_evidence.recipient_no FOR UPDATE;
    IF NOT FOUND THEN PERFORM outbox.unknown_delivery('settle_evidence', settle_evidence.id, settle_evidence.recipient_no); END IF;
  END IF;
  before := coalesce(d.state, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until));
  SELECT * INTO a FROM outbox.attempt x WHERE x.message_id = settle_evidence.id AND x.recipient_no = settle_evidence.recipient_no AND x.token = settle_evidence.token;
  IF NOT FOUND THEN
    RETURN format('nothing to settle: no finished attempt has the token %s; the delivery is %s', settle_evidence.token, before);
  END IF;
  IF a.outcome = 'not_sent' AND settle_evidence.verdict = 'accepted'
     AND EXISTS (SELECT FROM outbox.audit u WHERE u.message_id = a.message_id AND u.token = a.token AND u.action = 'evidence not_sent') THEN
    -- Evidence against evidence: a known acceptance always ends in sent. The doubt that was taken away is there again.
    UPDATE outbox.queue x SET open_doubts = x.open_doubts + 1 WHERE x.message_id = a.message_id AND x.recipient_no = a.recipient_no RETURNING x.* INTO q;
    UPDATE outbox.done x SET open_doubts = x.open_doubts + 1 WHERE x.message_id = a.message_id AND x.recipient_no = a.recipient_no RETURNING x.* INTO d;
  ELSIF a.outcome <> 'unknown' THEN
    RETURN format('nothing to settle: the attempt is known as %s; the delivery is %s', a.outcome, before);
  END IF;
  -- A row with its number of bytes was written by the relay itself, after the attempt had ended.
  IF settle_evidence.verdict = 'not_sent' AND a.bytes IS NULL AND outbox.may_be_alive('reaper', a.relay, a.token) THEN
    RAISE EXCEPTION USING ERRCODE = '22H54', MESSAGE = 'outbox.settle_evidence: verdict: ' || outbox.too_early('not_sent', 'reaper', a.finished_at, a.relay), COLUMN = 'verdict',
      HINT = 'wait with a relay running: an attempt that is alive may still transmit, and what is sent again meanwhile would be there twice';
  END IF;

  UPDATE outbox.attempt x SET outcome = settle_evidence.verdict, detail = settle_evidence.evidence
  WHERE x.message_id = a.message_id AND x.recipient_no = a.recipient_no AND x.token = a.token;
  PERFORM outbox.audit_entry('evidence ' || settle_evidence.verdict, a.message_id, a.recipient_no, a.token, settle_evidence.evidence, before,
    CASE WHEN settle_evidence.verdict = 'accepted' THEN 'sent' WHEN q.intent = a.token THEN 'pending' ELSE before END);
  IF q.message_id IS NOT NULL THEN
    RETURN outbox.evidence_on_queued(q, a.token, settle_evidence.verdict, settle_evidence.evidence);
  END IF;
  RETURN outbox.evidence_on_done(d, a.token, settle_evidence.verdict, settle_evidence.evidence);
END $$;
COMMENT ON FUNCTION outbox.settle_evidence(uuid, int, uuid, text, text) IS
'Settles the doubt of one attempt, named by its token, by evidence from elsewhere (what hapax reconcile found in a mail server''s log, a delivery report): accepted makes the delivery sent with evidence report; not_sent makes it pending again, which is no resend, and is refused (22H54) while the attempt may be alive. Reconciles whatever has been decided meanwhile; repeating it is a no-op that says so. Example:
  SELECT outbox.settle_evidence(message_id, recipient_no, token, ''accepted'', ''mx1: 3F2A51C0D4: queue active at 10:31:02'') FROM outbox.in_doubt WHERE token = ''5b1c2c1e-0f4e-4a57-8f5e-7f0d3c1a9b22'';';

CREATE FUNCTION outbox.evidence_on_queued(q outbox.queue, p_token uuid, p_verdict text, p_evidence text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_verdict = 'accepted' THEN
    IF q.intent IS NULL OR q.parked = 'doubt' THEN
      PERFORM outbox.finish(q, 'sent', 'report', p_evidence, p_token, q.open_doubts - 1);
      RETURN 'sent';
    END IF;
    -- Another attempt is on its way: it will end as sent, whatever that one comes to.
    UPDATE outbox.queue SET accepted_late = p_token, open_doubts = greatest(open_doubts - 1, 0) WHERE message_id = q.message_id AND recipient_no = q.recipient_no;
    RETURN 'sent, as soon as its next attempt has ended';
  END IF;
  IF q.intent IS DISTINCT FROM p_token THEN
    UPDATE outbox.queue SET open_doubts = greatest(open_doubts - 1, 0) WHERE message_id = q.message_id AND recipient_no = q.recipient_no;
    RETURN format('noted: an earlier attempt was not sent; it is %s', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until));
  END IF;
  IF q.accepted_late IS NOT NULL THEN
    PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts - 1);
    RETURN 'sent: an earlier attempt of it was accepted';
  END IF;
  UPDATE outbox.queue SET parked = NULL, due_at = now(), note = NULL, prev_intent = intent, intent = NULL, intent_by = NULL, intent_at = NULL,
         lease = NULL, lease_until = NULL, doubt_since = NULL, doubt_by = NULL, open_doubts = greatest(open_doubts - 1, 0)
  WHERE message_id = q.message_id AND recipient_no = q.recipient_no;
  RETURN 'pending: it was not sent and will be sent now';
END $$;
COMMENT ON FUNCTION outbox.evidence_on_queued(outbox.queue, uuid, text, text) IS 'Private to settle_evidence(): what evidence does to a locked queue row.';

CREATE FUNCTION outbox.evidence_on_done(d outbox.done, p_token uuid, p_verdict text, p_evidence text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_verdict = 'accepted' THEN
    UPDATE outbox.done x SET state = 'sent', evidence = 'report', reason = p_evidence || CASE WHEN d.state = 'sent' THEN '' ELSE format(' (after it was %s)', d.state) END,
           token = p_token, open_doubts = greatest(x.open_doubts - 1, 0)
    WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no AND NOT (x.state = 'sent' AND x.evidence IN ('reply', 'report', 'idempotent upstream'));
    IF FOUND THEN RETURN format('sent: it was %s', d.state || coalesce(' by ' || d.evidence, '')); END IF;
    UPDATE outbox.done x SET open_doubts = greatest(x.open_doubts - 1, 0) WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;
    RETURN 'noted: it is sent, and another copy of it was accepted';
  END IF;
  d.open_doubts := greatest(d.open_doubts - 1, 0);
  IF d.state = 'sent' AND d.evidence IN ('operator', 'policy') AND d.token IS NOT DISTINCT FROM p_token THEN
    PERFORM outbox.reopen(d, 'held', format('decided as sent by %s, but it was not sent: %s', d.evidence, p_evidence));
    RETURN format('held: it was decided as sent by %s, but was not sent', d.evidence);
  END IF;
  UPDATE outbox.done x SET open_doubts = d.open_doubts WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;
  RETURN format('noted: it is %s', d.state);
END $$;
COMMENT ON FUNCTION outbox.evidence_on_done(outbox.done, uuid, text, text) IS 'Private to settle_evidence(): what evidence does to a finished delivery.';

-- A finished message may bring a Message-ID that another one has, too: then a log cannot tell them apart.
CREATE FUNCTION outbox.has_namesakes(id uuid, recipient_no int) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM outbox.message m CROSS JOIN LATERAL (SELECT outbox.own_message_id(m.raw_message) AS message_id) own
    JOIN outbox.done d ON d.address_hash = outbox.address_hash((m.recipients || m.cc || m.bcc)[has_namesakes.recipient_no])
    JOIN outbox.message n ON n.id = d.message_id
    WHERE m.id = has_namesakes.id AND m.raw_message IS NOT NULL AND own.message_id IS NOT NULL
      AND d.message_id <> m.id AND n.raw_message IS NOT NULL AND outbox.own_message_id(n.raw_message) = own.message_id)
$$;
COMMENT ON FUNCTION outbox.has_namesakes(uuid, int) IS 'Whether another finished delivery to the same address carries the same Message-ID, brought by a finished message (raw_message): then a mail server''s log cannot tell which of them it took.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_operator', 'EXECUTE', '{resolve_many,settle_evidence,has_namesakes}'),
  ('outbox_operator outbox_viewer', 'EXECUTE', '{may_be_alive,relay_state,own_message_id}'),
  ('outbox_relay', 'EXECUTE', '{doubts_over}'),
  ('outbox_relay', 'UPDATE', '{route}');

SELECT outbox.grant_roles();
