-- outbox.contents: what the claimed deliveries say.
SELECT /* outbox.contents */ id, created_at_us, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message,
  headers, attachments, priority, expires_in_s, age_s, on_doubt, route, tenant, locale
FROM outbox.contents_of($1)
