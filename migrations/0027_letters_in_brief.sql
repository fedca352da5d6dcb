-- breaking: no
-- Whoever hands out work does not wait for large attachments: to say how long each is takes as long as to read them all.
-- letters_of() remains for relays of the release before.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.letters_in_brief(p_ids uuid[], p_inline_bytes_max bigint)
RETURNS TABLE (id uuid, created_at_us bigint, kind text, sender text, reply_to text, recipients text[], cc text[], bcc text[], payload text, subject text, body_text text, body_html text,
               raw_message bytea, raw_bytes bigint, headers text, attachments text, attachments_later boolean, priority text, expires_in_s float8, age_s float8, on_doubt text, route text, tenant text, locale text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT m.id, round(date_part('epoch', m.created_at) * 1000000)::bigint, m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc,
    m.payload::text, m.subject, m.body_text, m.body_html,
    CASE WHEN octet_length(m.raw_message) <= $2 THEN m.raw_message END, octet_length(m.raw_message)::bigint, m.headers::text,
    -- What lies in the row, compressed: nothing is decompressed to find out.
    CASE WHEN pg_column_size(m.attachments) <= $2 THEN m.attachments::text END,
    coalesce(pg_column_size(m.attachments) > $2, false),
    m.priority, date_part('epoch', m.expires_at - now()),
    date_part('epoch', now() - greatest(m.created_at, m.not_before)),
    m.on_doubt, m.route, m.tenant, m.locale
  FROM unnest($1) AS wanted (id) CROSS JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = ANY (ARRAY[wanted.id])) m;
END $$;
COMMENT ON FUNCTION outbox.letters_in_brief(uuid[], bigint) IS 'Relays: what claimed deliveries say, one partition looked at per message; of a finished message larger than p_inline_bytes_max only how large it is, of attachments larger than that only that there are some.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{letters_in_brief}'::text[]);
SELECT outbox.grant_roles();
