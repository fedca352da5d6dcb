-- outbox.resolve_many: a person's decision about all doubts that match; ages in seconds.
SELECT /* outbox.resolve_many */ r.message_id, r.recipient_no, r.token, r.result, r.done
FROM outbox.resolve_many($1, $2, route => $3, kind => $4, server => $5, tenant => $6, older_than => $7 * interval '1 second',
                         newer_than => $8 * interval '1 second', everything => $9, force => $10, dry_run => $11) r
