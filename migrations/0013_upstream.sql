-- breaking: no
-- Upstreams that de-duplicate by a key: a doubt is resolved by sending again with the same key, to the same upstream,
-- while its window is open.
SET LOCAL lock_timeout = '5s';

-- Constants as defaults: neither rewrites the table. Written by intend and the functions below, named by no index.
ALTER TABLE outbox.queue
  ADD COLUMN upstream bigint,
  ADD COLUMN same_key_of uuid,
  ADD COLUMN same_key_resends smallint NOT NULL DEFAULT 0;
COMMENT ON COLUMN outbox.queue.upstream IS 'Server, account and header of the de-duplicating upstream that all intents since the first open doubt went to, as a number; NULL when there is none, or not only one.';
COMMENT ON COLUMN outbox.queue.same_key_of IS 'The doubt that is being resolved by sending again with the same key: while this is prev_intent, the delivery may only go to its pinned route and upstream, inside the window.';
COMMENT ON COLUMN outbox.queue.same_key_resends IS 'How many of resends were with the same key: they do not count against max_resends.';

-- One condition, used by claim, intend and settle. Inlined.
CREATE FUNCTION outbox.is_bound(same_key_of uuid, prev_intent uuid, open_doubts smallint) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN same_key_of IS NOT NULL AND same_key_of IS NOT DISTINCT FROM prev_intent AND open_doubts > 0;
COMMENT ON FUNCTION outbox.is_bound(uuid, uuid, smallint) IS 'Whether a pending delivery is being sent again with the same key, and so is bound to its pinned route, its upstream and their window. Ends by itself when somebody decides the next doubt otherwise, or when no doubt is left.';

CREATE FUNCTION outbox.resend_same_key(p_id uuid, p_recipient_no int, p_token uuid, p_route text, p_upstream bigint, p_usable interval, p_reason text)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  answer text;
BEGIN
  SELECT * INTO q FROM outbox.queue WHERE message_id = p_id AND recipient_no = p_recipient_no FOR UPDATE;
  IF NOT FOUND OR q.parked IS DISTINCT FROM 'doubt' OR q.intent IS DISTINCT FROM p_token THEN
    RETURN 'nothing to resolve: it has moved on';
  END IF;
  -- What the relay has decided by its own clock is decided here once more, under the lock and by this one.
  IF q.upstream IS NULL OR q.upstream IS DISTINCT FROM p_upstream OR q.pinned_route IS DISTINCT FROM p_route THEN
    RETURN 'nothing done: it was sent to another upstream';
  END IF;
  IF q.first_intent_at IS NULL OR now() < q.first_intent_at OR now() >= q.first_intent_at + p_usable THEN
    RETURN 'nothing done: the window of its upstream has closed';
  END IF;
  answer := outbox.resolve_doubt(p_id, p_recipient_no, 'resend', p_reason, p_token, true, 'policy');
  UPDATE outbox.queue SET same_key_of = p_token, same_key_resends = same_key_resends + 1
  WHERE message_id = p_id AND recipient_no = p_recipient_no AND intent IS NULL AND prev_intent = p_token;
  RETURN answer;
END $$;
COMMENT ON FUNCTION outbox.resend_same_key(uuid, int, uuid, text, bigint, interval, text) IS 'Private to the relay: resolves a doubt by sending again with the same key, to the same upstream, inside its window.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{is_bound,resend_same_key}');

SELECT outbox.grant_roles();
