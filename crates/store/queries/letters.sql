-- outbox.letters: what the claimed deliveries say; of contents beyond $2 bytes, only that they are there.
SELECT /* outbox.letters */ id, created_at_us, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, raw_bytes,
  headers, attachments, attachments_later, priority, expires_in_s, age_s, on_doubt, route, tenant, locale
FROM outbox.letters_in_brief($1, $2)
