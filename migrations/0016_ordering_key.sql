-- breaking: no
-- Ordering keys are masked as dedup keys are: applications put addresses into them.
SET LOCAL lock_timeout = '5s';

CREATE OR REPLACE VIEW outbox.deliveries AS
SELECT m.id AS message_id, d.recipient_no::int AS recipient_no,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[d.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS recipient,
  m.kind, d.state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN d.reason ELSE outbox.mask_text(d.reason) END AS reason,
  m.tenant, d.route, CASE d.lane % 4 WHEN 0 THEN 'urgent' WHEN 1 THEN 'normal' ELSE 'bulk' END AS priority,
  m.created_at, d.due_at, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, d.finished_at, m.not_before, m.expires_at,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
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
COMMENT ON COLUMN outbox.deliveries.ordering_key IS 'Deliveries with one key go one after another. Addresses in it are masked unless the role may see them.';

SELECT outbox.grant_roles();
