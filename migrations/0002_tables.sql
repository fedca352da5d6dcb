-- breaking: no
-- The tables. All private: the contract is functions and views.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.message (
  id uuid NOT NULL DEFAULT outbox.uuid_v7(),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind text NOT NULL,
  sender text,
  reply_to text,
  recipients text[] NOT NULL,
  cc text[] NOT NULL DEFAULT '{}',
  bcc text[] NOT NULL DEFAULT '{}',
  payload json,
  subject text,
  body_text text,
  body_html text,
  raw_message bytea,
  headers jsonb,
  attachments jsonb,
  priority text NOT NULL DEFAULT 'normal',
  not_before timestamptz,
  expires_at timestamptz,
  ordering_key text,
  on_doubt text,
  route text,
  tenant text,
  locale text,
  traceparent text,
  tracestate text,
  dedup_key text,
  txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  application_name text DEFAULT current_setting('application_name', true),
  session_role name NOT NULL DEFAULT session_user,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
COMMENT ON TABLE outbox.message IS 'Notifications as the producers committed them. Immutable, insert-only; partitioned by id, which is time (uuid v7).';
COMMENT ON COLUMN outbox.message.kind IS 'Names the template, the policy and the metric label.';
COMMENT ON COLUMN outbox.message.recipients IS 'To. Positions in recipients || cc || bcc, from 1, number the deliveries; a repeated address has one delivery.';
COMMENT ON COLUMN outbox.message.payload IS 'JSON for the kind''s template; exactly one of payload, subject with bodies, raw_message is given.';
COMMENT ON COLUMN outbox.message.txid IS 'The producer''s transaction: the answer to "who enqueued this twice".';
CREATE TABLE outbox.message_default PARTITION OF outbox.message DEFAULT;
COMMENT ON TABLE outbox.message_default IS 'Catches what no partition was made for; outbox.maintain() keeps it empty by making partitions ahead.';

CREATE TABLE outbox.queue (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  lane smallint NOT NULL,
  due_at timestamptz NOT NULL,
  parked text,
  note text,
  claims smallint NOT NULL DEFAULT 0,
  attempt_no smallint NOT NULL DEFAULT 0,
  intents smallint NOT NULL DEFAULT 0,
  open_doubts smallint NOT NULL DEFAULT 0,
  resends smallint NOT NULL DEFAULT 0,
  lease uuid,
  lease_until timestamptz,
  intent uuid,
  intent_by uuid,
  intent_at timestamptz,
  first_intent_at timestamptz,
  prev_intent uuid,
  doubt_since timestamptz,
  doubt_by text,
  accepted_late uuid,
  content_sha256 bytea,
  pinned_route text,
  address_hash bigint NOT NULL,
  order_key text,
  order_no bigint,
  PRIMARY KEY (message_id, recipient_no),
  CONSTRAINT queue_parked_is_known CHECK (parked IN ('doubt', 'held', 'poison', 'ordered')),
  CONSTRAINT queue_doubt_has_an_intent CHECK (parked IS DISTINCT FROM 'doubt' OR (intent IS NOT NULL AND doubt_since IS NOT NULL)),
  CONSTRAINT queue_parked_is_never_due CHECK (parked IS NULL OR due_at = 'infinity')
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 1, autovacuum_analyze_scale_factor = 0.05);
-- fillfactor 20: a page has room for all three versions of its rows (84, 108 and 204 bytes as enqueued, claimed and intended),
-- so that the updates stay HOT also while an old snapshot, a dump say, forbids pruning. With 35 it was 66 %.
COMMENT ON TABLE outbox.queue IS 'One narrow row per delivery that is not finished. Claim and intend write only columns that no index names (HOT); states are derived by outbox.state_of().';
COMMENT ON COLUMN outbox.queue.lane IS 'route group * 4 + priority (0 urgent, 1 normal, 2 bulk): what a relay claims from.';
COMMENT ON COLUMN outbox.queue.parked IS 'Why it is not due at all: doubt, held, poison, ordered (waits behind its ordering key). Parked rows have due_at = infinity, so they never clog the head of the index.';
COMMENT ON COLUMN outbox.queue.claims IS 'Claims that have ended neither in an attempt nor in a release: a high number means it kills its relay.';
COMMENT ON COLUMN outbox.queue.attempt_no IS 'Finished attempts that concerned the message (not the route).';
COMMENT ON COLUMN outbox.queue.intents IS 'Intents ever written.';
COMMENT ON COLUMN outbox.queue.open_doubts IS 'Attempts in the ledger whose outcome is still unknown.';
COMMENT ON COLUMN outbox.queue.lease IS 'Fresh per claim.';
COMMENT ON COLUMN outbox.queue.intent IS 'Fresh per attempt; set before the first byte of an end marker, never claimable while set.';
COMMENT ON COLUMN outbox.queue.intent_by IS 'The incarnation of the relay that wrote the intent.';
COMMENT ON COLUMN outbox.queue.accepted_late IS 'The attempt that turned out accepted while another was open: it will end as sent, whatever the other says.';
COMMENT ON COLUMN outbox.queue.content_sha256 IS 'Of the bytes of the first intent; an attempt that would send others is held.';
CREATE INDEX queue_due ON outbox.queue (lane, due_at, message_id, recipient_no) WITH (fillfactor = 90);
COMMENT ON INDEX outbox.queue_due IS 'What the claim walks, behind an in-memory cursor.';
CREATE INDEX queue_ordered ON outbox.queue (order_key, order_no) WHERE order_key IS NOT NULL;
COMMENT ON INDEX outbox.queue_ordered IS 'Finds the next delivery of an ordering key; unkeyed deliveries are not in it.';

CREATE SEQUENCE outbox.order_no;
COMMENT ON SEQUENCE outbox.order_no IS 'Order of deliveries within an ordering key, drawn under the key''s lock.';

CREATE TABLE outbox.attempt (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  token uuid NOT NULL,
  attempt_no smallint NOT NULL,
  outcome text NOT NULL,
  phase text NOT NULL,
  cause text,
  code smallint,
  enhanced text,
  reply text,
  detail text,
  route text,
  server text,
  relay uuid,
  started_at timestamptz,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  bytes integer,
  PRIMARY KEY (message_id, recipient_no, token)
) PARTITION BY RANGE (message_id);
COMMENT ON TABLE outbox.attempt IS 'The ledger: one row per finished attempt, and one per attempt whose relay died behind the intent (outcome unknown). Append-only, but for unknown becoming known.';
COMMENT ON COLUMN outbox.attempt.token IS 'The attempt''s intent token: unique, so that a settle may be repeated.';
COMMENT ON COLUMN outbox.attempt.outcome IS 'accepted, refused (for good), deferred (for now), not_sent, unknown.';
COMMENT ON COLUMN outbox.attempt.reply IS 'The server''s words, losslessly escaped and capped at 2,000 characters.';
CREATE TABLE outbox.attempt_default PARTITION OF outbox.attempt DEFAULT;
COMMENT ON TABLE outbox.attempt_default IS 'Catches what no partition was made for.';

CREATE TABLE outbox.done (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  state text NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  evidence text,
  reason text,
  token uuid,
  open_doubts smallint NOT NULL DEFAULT 0,
  attempt_no smallint NOT NULL DEFAULT 0,
  intents smallint NOT NULL DEFAULT 0,
  resends smallint NOT NULL DEFAULT 0,
  lane smallint NOT NULL,
  content_sha256 bytea,
  address_hash bigint NOT NULL,
  PRIMARY KEY (message_id, recipient_no),
  CONSTRAINT done_state_is_terminal CHECK (state IN ('sent', 'failed', 'cancelled', 'expired', 'suppressed')),
  CONSTRAINT done_sent_has_evidence CHECK (state <> 'sent' OR evidence IN ('reply', 'report', 'idempotent upstream', 'operator', 'policy', 'erased'))
);
COMMENT ON TABLE outbox.done IS 'The terminal state of each finished delivery. Intend refuses a delivery that is in it.';
COMMENT ON COLUMN outbox.done.evidence IS 'Why it is believed: reply, report, idempotent upstream, operator, policy.';
COMMENT ON COLUMN outbox.done.open_doubts IS 'Attempts whose outcome never became known: failed or cancelled with open doubts may have arrived.';
CREATE INDEX done_address ON outbox.done (address_hash);
COMMENT ON INDEX outbox.done_address IS 'Search by address.';

CREATE TABLE outbox.dedup_key (
  tenant text NOT NULL DEFAULT '',
  key text NOT NULL,
  digest bytea NOT NULL,
  message_id uuid NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (tenant, key)
);
COMMENT ON TABLE outbox.dedup_key IS 'Which content a dedup key stands for. Outlives the message; freed by outbox.release_key() or after its time.';
CREATE INDEX dedup_key_expiry ON outbox.dedup_key (expires_at);
COMMENT ON INDEX outbox.dedup_key_expiry IS 'Finds keys whose time has passed.';

CREATE TABLE outbox.ordering (
  order_key text PRIMARY KEY,
  last_used timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.ordering IS 'One row per ordering key in use: producers of one key commit one after another through its lock.';

CREATE TABLE outbox.route (
  name text PRIMARY KEY,
  group_no smallint GENERATED ALWAYS AS IDENTITY (START WITH 1 MAXVALUE 8000) UNIQUE,
  seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE outbox.route IS 'Routes that relays have registered, with the group that begins their lanes (group 0 is everything else): a stalled route must not take every permit.';

CREATE TABLE outbox.kind (
  name text PRIMARY KEY,
  priority text CHECK (priority IN ('urgent', 'normal', 'bulk')),
  route text
);
COMMENT ON TABLE outbox.kind IS 'What the relays'' configuration says of kinds, registered by them: the lane of a notification that names neither priority nor route itself.';

CREATE TABLE outbox.relay (
  incarnation uuid PRIMARY KEY,
  name text NOT NULL,
  host text NOT NULL,
  pid integer NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  beat bigint NOT NULL DEFAULT 0,
  beat_at timestamptz NOT NULL DEFAULT now(),
  doubt_grace interval NOT NULL,
  signed_off_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.relay IS 'One row per process start of a relay. The heartbeat is a counter advanced by compare-and-set; the name is a label only.';
COMMENT ON COLUMN outbox.relay.beat IS 'Unchanged for dead_after of an observer''s own monotonic clock means dead; never a comparison of wall clocks.';
COMMENT ON COLUMN outbox.relay.doubt_grace IS 'How long after a doubt was marked its attempt may still be alive: transmit deadline + body + final reply timeout + margin.';
COMMENT ON COLUMN outbox.relay.signed_off_at IS 'Set after all its sockets were closed and all its settles were done.';

CREATE TABLE outbox.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor name NOT NULL DEFAULT session_user,
  role text NOT NULL DEFAULT current_setting('role'),
  application_name text DEFAULT current_setting('application_name', true),
  action text NOT NULL,
  message_id uuid,
  recipient_no smallint,
  token uuid,
  reason text,
  before text,
  after text
);
COMMENT ON TABLE outbox.audit IS 'Who decided what, why, and what it was before and after. One row per action and delivery.';
CREATE INDEX audit_message ON outbox.audit (message_id);
COMMENT ON INDEX outbox.audit_message IS 'The decisions about one message.';
