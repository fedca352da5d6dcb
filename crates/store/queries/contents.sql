-- outbox.contents: what the claimed deliveries say. Unnamed, so that it is planned for these ids: a cached generic plan
-- made while a partition was empty would scan it sequentially later.
SELECT /* outbox.contents */
  m.id, (extract(epoch FROM m.created_at) * 1000000)::bigint AS created_at_us, m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc,
  m.payload::text AS payload, m.subject, m.body_text, m.body_html, m.raw_message, m.headers::text AS headers, m.attachments::text AS attachments,
  m.priority, extract(epoch FROM m.expires_at - now())::float8 AS expires_in_s,
  extract(epoch FROM now() - greatest(m.created_at, m.not_before))::float8 AS age_s,
  m.on_doubt, m.route, m.tenant, m.locale
FROM outbox.message m WHERE m.id = ANY ($1)
