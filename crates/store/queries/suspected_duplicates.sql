-- outbox.suspected_duplicates: what producers have enqueued twice for one address ($2), or for the recipients of one message
-- ($3), newest first, masked.
SELECT /* outbox.suspected_duplicates */ outbox.mask_address(s.recipient) AS recipient, s.kind, extract(epoch FROM s.gap)::float8 AS gap_s,
       s.same_transaction, s.both_sent,
       s.first_id, s.first_no, to_char(s.first_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS first_at, s.first_txid::text AS first_txid,
       s.first_application, s.first_role::text AS first_role, outbox.mask_text(s.first_dedup_key) AS first_dedup_key, s.first_state,
       s.second_id, s.second_no, to_char(s.second_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS second_at, s.second_txid::text AS second_txid,
       s.second_application, s.second_role::text AS second_role, outbox.mask_text(s.second_dedup_key) AS second_dedup_key, s.second_state
FROM outbox.find_suspected_duplicates(now() - $1::float8 * interval '1 second', address => $2, id => $3, max_rows => $4) s
ORDER BY s.second_id DESC, s.second_no
