-- breaking: no
-- Servers repeat the recipient in their own ways: <ada@example.org>, which was masked already, or "user ada unknown", which was not.
SET LOCAL lock_timeout = '5s';

-- An SQL-standard body, as those beside it: a reader's own search_path changes nothing. The local part, and what is before its plus
-- sign, as words of their own; one letter is shown of every masked address anyway.
CREATE FUNCTION outbox.mask_words(words text, mailbox text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
  regexp_replace(outbox.mask_text(words),
    '(?<![[:alnum:]])(?:'
      || regexp_replace(substring(mailbox, '^(?:.*<)?"?([^@"<>]{2,})"?@'), '([].\\^$*+?{}()|[])', '\\\1', 'g')
      || coalesce('|' || substring(mailbox, '^(?:.*<)?"?([[:alnum:]_-]{2,})\+[^@"<>]*"?@'), '')
      || ')(?![[:alnum:]])',
    '***', 'gi'),
  outbox.mask_text(words));
COMMENT ON FUNCTION outbox.mask_words(text, text) IS 'As mask_text(), of words about this address: its local part is replaced too, where it stands alone ("user ada unknown").';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_operator outbox_viewer', 'EXECUTE', '{mask_words}'::text[]);
SELECT outbox.grant_roles();

CREATE OR REPLACE VIEW outbox.deliveries AS
SELECT m.id AS message_id, d.recipient_no::int AS recipient_no,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[d.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS recipient,
  m.kind, d.state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN d.reason ELSE outbox.mask_words(d.reason, (m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS reason,
  m.tenant, d.route, CASE d.lane % 4 WHEN 0 THEN 'urgent' WHEN 1 THEN 'normal' ELSE 'bulk' END AS priority,
  m.created_at, d.due_at, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, d.finished_at, m.not_before, m.expires_at,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.dedup_key ELSE outbox.mask_text(m.dedup_key) END AS dedup_key,
  m.on_doubt, m.application_name, m.session_role, m.txid
FROM outbox.message m
CROSS JOIN LATERAL (
  SELECT q.recipient_no,
    CASE WHEN q.parked = 'collected' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END AS state,
    CASE WHEN q.intent IS NULL AND coalesce(q.parked, 'paused') = 'paused' AND EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL)
         THEN coalesce(outbox.pause_words(m.kind, m.tenant, coalesce(q.pinned_route, m.route, (SELECT r.name FROM outbox.route r WHERE r.group_no = q.lane / 4), 'default'), (m.recipients || m.cc || m.bcc)[q.recipient_no]),
                       outbox.pause_words(q.message_id, q.recipient_no, q.parked), outbox.state_reason(q.parked, q.note))
         ELSE outbox.state_reason(q.parked, q.note) END AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;

CREATE OR REPLACE VIEW outbox.in_doubt AS
SELECT q.message_id, q.recipient_no::int AS recipient_no, q.intent AS token,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[q.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS recipient,
  m.kind, m.tenant, q.doubt_since, now() - q.doubt_since AS age, q.doubt_by AS marked_by,
  r.name AS relay_name, r.host AS relay_host, q.intent_by AS relay_incarnation, r.signed_off_at IS NOT NULL AS relay_signed_off,
  coalesce(q.pinned_route, m.route) AS route, q.message_id::text AS message_id_header, q.intent_at, q.resends::int AS resends,
  outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by) AS may_be_alive_until,
  CASE WHEN outbox.may_see_addresses(current_user) THEN q.note ELSE outbox.mask_words(q.note, (m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS note,
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
FROM (SELECT x.* FROM outbox.queue x WHERE x.parked = 'doubt') q
LEFT JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = q.message_id LIMIT 1) m ON true
LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by
LEFT JOIN LATERAL (SELECT x.* FROM outbox.attempt x WHERE x.message_id = q.message_id AND x.recipient_no = q.recipient_no AND x.token = q.intent LIMIT 1) a ON true
LEFT JOIN outbox.route g ON g.name = coalesce(q.pinned_route, m.route) AND g.host_since <= q.intent_at;

CREATE OR REPLACE VIEW outbox.blocked_keys AS
SELECT m.tenant, CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  k.waiting, q.message_id, q.recipient_no::int AS recipient_no, m.kind, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN outbox.state_reason(q.parked, q.note) ELSE outbox.mask_words(outbox.state_reason(q.parked, q.note), (m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS reason,
  coalesce(b.since, q.doubt_since) AS since, b.skips_at
FROM (
  SELECT s.order_key, (SELECT count(*) FROM outbox.queue o WHERE o.order_key = s.order_key)
                    - (SELECT count(*) FROM outbox.queue h WHERE h.order_key = s.order_key AND h.parked IS DISTINCT FROM 'ordered') AS waiting
  FROM (SELECT DISTINCT x.order_key FROM outbox.queue x WHERE x.order_key IS NOT NULL AND x.parked IN ('doubt', 'held', 'poison')) s
  WHERE NOT EXISTS (SELECT FROM outbox.queue a WHERE a.order_key = s.order_key AND a.parked IS DISTINCT FROM 'ordered'
                    AND coalesce(a.parked, '') NOT IN ('doubt', 'held', 'poison'))
  OFFSET 0) k
JOIN outbox.queue q ON q.order_key = k.order_key AND q.parked IS DISTINCT FROM 'ordered' AND q.parked IN ('doubt', 'held', 'poison')
CROSS JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = q.message_id LIMIT 1) m
LEFT JOIN outbox.key_block b ON b.message_id = q.message_id AND b.recipient_no = q.recipient_no
WHERE k.waiting > 0;

CREATE OR REPLACE VIEW outbox.attempts AS
SELECT a.message_id, a.recipient_no::int AS recipient_no,
  (SELECT CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[a.recipient_no]
               ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[a.recipient_no]) END
   FROM outbox.message m WHERE m.id = a.message_id) AS recipient,
  a.token, a.attempt_no::int AS attempt_no, a.outcome, a.phase, a.cause, a.code::int AS code, a.enhanced,
  CASE WHEN outbox.may_see_addresses(current_user) OR a.reply IS NULL THEN a.reply
       ELSE outbox.mask_words(a.reply, (SELECT (m.recipients || m.cc || m.bcc)[a.recipient_no] FROM outbox.message m WHERE m.id = a.message_id)) END AS reply,
  CASE WHEN outbox.may_see_addresses(current_user) OR a.detail IS NULL THEN a.detail
       ELSE outbox.mask_words(a.detail, (SELECT (m.recipients || m.cc || m.bcc)[a.recipient_no] FROM outbox.message m WHERE m.id = a.message_id)) END AS detail,
  a.route, a.server, r.name AS relay_name, r.host AS relay_host, a.relay AS relay_incarnation, a.started_at, a.finished_at, a.finished_at - a.started_at AS took, a.bytes
FROM outbox.attempt a LEFT JOIN outbox.relay r ON r.incarnation = a.relay;

CREATE OR REPLACE FUNCTION outbox.status(id uuid)
RETURNS TABLE (recipient_no int, recipient text, state text, reason text, attempts int, intents int, due_at timestamptz, finished_at timestamptz,
  last_outcome text, last_reply text, open_doubts int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
  -- Inside a SECURITY DEFINER function current_user is the owner.
  caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
  unmasked boolean := outbox.may_see_addresses(caller);
BEGIN
  RETURN QUERY
  SELECT d.recipient_no, CASE WHEN unmasked THEN d.recipient ELSE outbox.mask_address(d.recipient) END, d.state,
    CASE WHEN unmasked THEN d.reason ELSE outbox.mask_words(d.reason, d.recipient) END, d.attempts, d.intents, d.due_at, d.finished_at,
    a.outcome, CASE WHEN unmasked THEN a.reply ELSE outbox.mask_words(a.reply, d.recipient) END, d.open_doubts
  FROM outbox.deliveries d
  LEFT JOIN LATERAL (
    SELECT x.outcome, x.reply FROM outbox.attempt x WHERE x.message_id = status.id AND x.recipient_no = d.recipient_no
    ORDER BY x.finished_at DESC LIMIT 1) a ON true
  WHERE d.message_id = status.id
  ORDER BY d.recipient_no;
END $$;
