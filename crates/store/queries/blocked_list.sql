-- outbox.blocked_list: stopped deliveries that others wait behind in their ordering keys, those with the most behind them
-- first, for people. $1 and $2 name one; what is passed already blocks nothing. Answers with how many there are in all.
SELECT /* outbox.blocked_list */ b.tenant, outbox.mask_text(b.ordering_key) AS ordering_key, b.waiting, b.message_id, b.recipient_no, b.kind, b.state,
       outbox.mask_text(b.reason) AS reason, to_char(b.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since,
       extract(epoch FROM now() - b.since)::float8 AS age_s, to_char(b.skips_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS passed_at,
       (SELECT d.token FROM outbox.in_doubt d WHERE d.message_id = b.message_id AND d.recipient_no = b.recipient_no) AS token, b.blocking
FROM (
  SELECT k.*, count(*) OVER () AS blocking FROM outbox.blocked_keys k
  WHERE (k.skips_at IS NULL OR k.skips_at > now()) AND ($1::uuid IS NULL OR k.message_id = $1) AND ($2::int4 IS NULL OR k.recipient_no = $2)
  ORDER BY k.waiting DESC, k.since, k.message_id, k.recipient_no LIMIT $3) b
ORDER BY b.waiting DESC, b.since, b.message_id, b.recipient_no
