-- breaking: no
-- Looking: what became of a message, of each delivery, what is in doubt, how the queue is.
SET LOCAL lock_timeout = '5s';

-- Masking. These have SQL-standard bodies, parsed here: a reader's own search_path cannot slip another left() or || under
-- them and see what they are given. They are inlined into the views.
CREATE FUNCTION outbox.mask_address(mailbox text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(mailbox, '^(?:.*<)?"?([^@])?(?:[^@]|@(?=.*@))*(@[^@>]*)?(?:>.*)?$', '\1***\2');
COMMENT ON FUNCTION outbox.mask_address(text) IS 'An address as those see it who may not see addresses: a***@example.org.';

CREATE FUNCTION outbox.mask_text(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(words, '[^\s<>()"'',;:=]+@[^\s<>()"'',;:=]+', '***', 'g');
COMMENT ON FUNCTION outbox.mask_text(text) IS 'A text (a server''s reply, a reason) with everything that looks like an address replaced: servers repeat the recipient.';

CREATE FUNCTION outbox.unmasked() RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN true;
COMMENT ON FUNCTION outbox.unmasked() IS 'A privilege: who may EXECUTE this sees addresses in the views. outbox_operator may; GRANT EXECUTE ON FUNCTION outbox.unmasked() TO a role of your own.';

CREATE FUNCTION outbox.may_see_addresses(who name) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN has_function_privilege(who, 'outbox.unmasked()'::regprocedure, 'EXECUTE');
COMMENT ON FUNCTION outbox.may_see_addresses(name) IS 'Whether a role sees addresses: those that may execute outbox.unmasked() (outbox_operator and its members), the owner, superusers.';

CREATE FUNCTION outbox.state_reason(parked text, note text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE parked WHEN 'ordered' THEN 'waits behind its ordering key' WHEN 'poison' THEN coalesce(note, 'its relays died on it') ELSE note END;
COMMENT ON FUNCTION outbox.state_reason(text, text) IS 'Why a queue row is in its state, in words.';

-- Driven from message, so that a point lookup and "the newest 50" touch 50 rows. A list by state reads everything: for
-- that, outbox.in_doubt and outbox.queue_health start at the narrow tables.
CREATE VIEW outbox.deliveries AS
SELECT m.id AS message_id, d.recipient_no::int AS recipient_no,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[d.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS recipient,
  m.kind, d.state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN d.reason ELSE outbox.mask_text(d.reason) END AS reason,
  m.tenant, d.route, CASE d.lane % 4 WHEN 0 THEN 'urgent' WHEN 1 THEN 'normal' ELSE 'bulk' END AS priority,
  m.created_at, d.due_at, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, d.finished_at, m.not_before, m.expires_at, m.ordering_key,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.dedup_key ELSE outbox.mask_text(m.dedup_key) END AS dedup_key,
  m.on_doubt, m.application_name, m.session_role, m.txid
FROM outbox.message m
CROSS JOIN LATERAL (
  SELECT q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state, outbox.state_reason(q.parked, q.note) AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;
COMMENT ON VIEW outbox.deliveries IS
'One row per delivery (one message, one recipient) with its state: pending, claimed, sending, in_doubt, held, sent, failed, cancelled, expired, suppressed. Fast by message_id and for ORDER BY message_id DESC LIMIT n; a filter on state alone reads every message: use outbox.in_doubt or outbox.queue_health. Addresses are masked unless the role may see them. Example:
  SELECT * FROM outbox.deliveries ORDER BY message_id DESC LIMIT 50;';
COMMENT ON COLUMN outbox.deliveries.recipient_no IS 'Position in recipients || cc || bcc, from 1; with message_id the key of a delivery.';
COMMENT ON COLUMN outbox.deliveries.priority IS 'In force: the notification''s own, or the one configured for its kind.';
COMMENT ON COLUMN outbox.deliveries.due_at IS 'When it may be claimed; NULL when it is finished or waits for something else than time.';
COMMENT ON COLUMN outbox.deliveries.attempts IS 'Finished attempts that concerned the message, not the route.';
COMMENT ON COLUMN outbox.deliveries.open_doubts IS 'Attempts of unknown outcome: failed or cancelled with open doubts may have arrived.';
COMMENT ON COLUMN outbox.deliveries.evidence IS 'Why "sent" is believed: reply, report, idempotent upstream, operator, policy.';
COMMENT ON COLUMN outbox.deliveries.txid IS 'The transaction that enqueued it.';

CREATE VIEW outbox.attempts AS
SELECT a.message_id, a.recipient_no::int AS recipient_no,
  (SELECT CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[a.recipient_no]
               ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[a.recipient_no]) END
   FROM outbox.message m WHERE m.id = a.message_id) AS recipient,
  a.token, a.attempt_no::int AS attempt_no, a.outcome, a.phase, a.cause, a.code::int AS code, a.enhanced,
  CASE WHEN outbox.may_see_addresses(current_user) THEN a.reply ELSE outbox.mask_text(a.reply) END AS reply,
  CASE WHEN outbox.may_see_addresses(current_user) THEN a.detail ELSE outbox.mask_text(a.detail) END AS detail,
  a.route, a.server, r.name AS relay_name, r.host AS relay_host, a.relay AS relay_incarnation, a.started_at, a.finished_at, a.finished_at - a.started_at AS took, a.bytes
FROM outbox.attempt a LEFT JOIN outbox.relay r ON r.incarnation = a.relay;
COMMENT ON VIEW outbox.attempts IS
'Every attempt: how far it came (phase), what came of it (outcome: accepted, refused, deferred, not_sent, unknown), the server''s words, and when. Addresses are masked unless the role may see them. Example:
  SELECT * FROM outbox.attempts WHERE message_id = ''...'' ORDER BY recipient_no, finished_at;';
COMMENT ON COLUMN outbox.attempts.token IS 'The attempt''s own token: what outbox.resolve() is told.';
COMMENT ON COLUMN outbox.attempts.relay_host IS 'NULL when the relay''s record is gone (30 days after its end).';

-- Walks from lane to lane in the index. A function of its own, because as a recursive query inside the views its estimates
-- are so far off that their plans are compiled (JIT): a second for what takes milliseconds.
CREATE FUNCTION outbox.lanes() RETURNS SETOF smallint LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 3 AS $$
DECLARE
  seen smallint := -1;
BEGIN
  LOOP
    SELECT q.lane INTO seen FROM outbox.queue q WHERE q.lane > seen ORDER BY q.lane LIMIT 1;
    EXIT WHEN NOT FOUND;
    RETURN NEXT seen;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.lanes() IS 'The lanes that have deliveries now.';

-- Parked rows have due_at = infinity: one index range per lane, however long the queue is.
CREATE VIEW outbox.in_doubt AS
SELECT q.message_id, q.recipient_no::int AS recipient_no, q.intent AS token,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[q.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS recipient,
  m.kind, m.tenant, q.doubt_since, now() - q.doubt_since AS age, q.doubt_by AS marked_by,
  r.name AS relay_name, r.host AS relay_host, q.intent_by AS relay_incarnation, r.signed_off_at IS NOT NULL AS relay_signed_off,
  coalesce(q.pinned_route, m.route) AS route, q.message_id::text AS message_id_header, q.intent_at, q.resends::int AS resends,
  outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by) AS may_be_alive_until,
  CASE WHEN outbox.may_see_addresses(current_user) THEN q.note ELSE outbox.mask_text(q.note) END AS note
FROM outbox.lanes() AS l(lane)
CROSS JOIN LATERAL (SELECT x.* FROM outbox.queue x WHERE x.lane = l.lane AND x.due_at = 'infinity' AND x.parked = 'doubt') q
LEFT JOIN outbox.message m ON m.id = q.message_id
LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by;
COMMENT ON VIEW outbox.in_doubt IS
'Deliveries whose outcome nobody knows, with what is needed to find out: look for message_id_header in the mail server''s log around intent_at, then decide with
  SELECT outbox.resolve(message_id, recipient_no, ''sent'' | ''resend'' | ''failed'', ''why'', token);';
COMMENT ON COLUMN outbox.in_doubt.token IS 'Names this very doubt; pass it to outbox.resolve(), so that a repeated call cannot decide the next one.';
COMMENT ON COLUMN outbox.in_doubt.marked_by IS 'relay: it lost its connection behind the end marker and says so itself. reaper: the relay vanished.';
COMMENT ON COLUMN outbox.in_doubt.message_id_header IS 'The part of the Message-ID header before the @: what to search for in the mail server''s log.';
COMMENT ON COLUMN outbox.in_doubt.may_be_alive_until IS 'Until when the attempt could still transmit or read a reply; NULL when it certainly cannot.';

-- Narrow tables only, and never more than 20,000 index entries of a lane: an estimate that costs the same on a full queue.
CREATE VIEW outbox.queue_health AS
WITH unfinished AS (
  SELECT outbox.state_of(s.parked, s.intent, s.lease, s.lease_until) AS state,
         CASE WHEN s.parked = 'doubt' THEN s.doubt_since WHEN s.intent IS NOT NULL THEN s.intent_at WHEN s.parked IS NULL THEN s.due_at
              ELSE outbox.uuid_time(s.message_id) END AS at
  FROM outbox.lanes() AS l(lane) CROSS JOIN LATERAL (
    (SELECT q.* FROM outbox.queue q WHERE q.lane = l.lane AND q.due_at < 'infinity' ORDER BY q.due_at, q.message_id, q.recipient_no LIMIT 20000)
    UNION ALL
    (SELECT q.* FROM outbox.queue q WHERE q.lane = l.lane AND q.due_at = 'infinity' ORDER BY q.message_id, q.recipient_no LIMIT 20000)) s
),
finished AS (
  SELECT d.state, d.finished_at AS at FROM outbox.done d ORDER BY d.message_id DESC, d.recipient_no DESC LIMIT 20000
),
seen AS MATERIALIZED (
  SELECT u.state, count(*) AS n, min(u.at) AS oldest, max(u.at) AS newest, false AS terminal FROM unfinished u GROUP BY u.state
  UNION ALL
  SELECT f.state, count(*), min(f.at), max(f.at), true FROM finished f GROUP BY f.state
),
sizes AS (
  SELECT coalesce(sum(x.n) FILTER (WHERE NOT x.terminal), 0) AS unfinished, coalesce(sum(x.n) FILTER (WHERE x.terminal), 0) AS finished,
    (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = 'outbox.queue'::regclass) AS queue_estimate,
    (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = 'outbox.done'::regclass) AS done_estimate
  FROM seen x
)
SELECT w.state,
  CASE
    WHEN w.terminal AND z.finished >= 20000 THEN greatest(coalesce(s.n, 0), round(z.done_estimate * (coalesce(s.n, 0) / z.finished)))
    WHEN w.state = 'pending' AND z.unfinished >= 20000 THEN greatest(coalesce(s.n, 0), z.queue_estimate - (z.unfinished - coalesce(s.n, 0)))
    ELSE coalesce(s.n, 0) END::bigint AS deliveries,
  CASE WHEN w.terminal THEN z.finished < 20000 ELSE z.unfinished < 20000 END AS exact,
  CASE WHEN NOT w.terminal OR z.finished < 20000 THEN s.oldest END AS oldest, s.newest
FROM (VALUES (1, 'pending', false), (2, 'claimed', false), (3, 'sending', false), (4, 'in_doubt', false), (5, 'held', false),
             (6, 'sent', true), (7, 'failed', true), (8, 'cancelled', true), (9, 'expired', true), (10, 'suppressed', true)) w(no, state, terminal)
CROSS JOIN sizes z
LEFT JOIN (SELECT v.state, v.n::numeric AS n, v.oldest, v.newest FROM seen v) s ON s.state = w.state
ORDER BY w.no;
COMMENT ON VIEW outbox.queue_health IS
'One row per state, all ten, always: how many deliveries, the oldest and the newest. No addresses. Exact while fewer than 20,000 rows had to be read, an estimate beyond; costs the same on any queue (tens of milliseconds).';
COMMENT ON COLUMN outbox.queue_health.oldest IS 'pending and claimed: due; sending: intent; in_doubt: marked; held and waiting behind an ordering key: enqueued; terminal: finished (NULL when not exact). A pending one may be due in the future.';
COMMENT ON COLUMN outbox.queue_health.exact IS 'Whether deliveries was counted (true) or estimated.';

CREATE FUNCTION outbox.backlog() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM outbox.lanes() AS l(lane) CROSS JOIN LATERAL (
    SELECT FROM outbox.queue q
    WHERE q.lane = l.lane AND q.due_at <= now() AND q.intent IS NULL AND (q.lease IS NULL OR q.lease_until < now())
    LIMIT 20000) due
$$;
COMMENT ON FUNCTION outbox.backlog() IS 'How many deliveries are due and not claimed, counted up to 20,000 per lane: what an autoscaler looks at.';

CREATE FUNCTION outbox.status(id uuid)
RETURNS TABLE (recipient_no int, recipient text, state text, reason text, attempts int, intents int, due_at timestamptz, finished_at timestamptz,
  last_outcome text, last_reply text, open_doubts int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  -- Inside a SECURITY DEFINER function current_user is the owner.
  caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
  unmasked boolean := outbox.may_see_addresses(caller);
BEGIN
  RETURN QUERY
  SELECT d.recipient_no, CASE WHEN unmasked THEN d.recipient ELSE outbox.mask_address(d.recipient) END, d.state,
    CASE WHEN unmasked THEN d.reason ELSE outbox.mask_text(d.reason) END, d.attempts, d.intents, d.due_at, d.finished_at,
    a.outcome, CASE WHEN unmasked THEN a.reply ELSE outbox.mask_text(a.reply) END, d.open_doubts
  FROM outbox.deliveries d
  LEFT JOIN LATERAL (
    SELECT x.outcome, x.reply FROM outbox.attempt x WHERE x.message_id = status.id AND x.recipient_no = d.recipient_no
    ORDER BY x.finished_at DESC LIMIT 1) a ON true
  WHERE d.message_id = status.id
  ORDER BY d.recipient_no;
END $$;
COMMENT ON FUNCTION outbox.status(uuid) IS
'What became of a message: one row per delivery; none when there is no such message, or your transaction cannot see it. Addresses are masked unless the role may see them. Example:
  SELECT state, reason FROM outbox.status(''...'');';
