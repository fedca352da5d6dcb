-- outbox.doubt_list: deliveries in doubt, oldest doubt first, with what is needed to find out and to decide. $1 names one
-- doubt by its token, $2 and $3 one delivery, $4 a kind.
SELECT /* outbox.doubt_list */ d.message_id, d.recipient_no, d.token, outbox.mask_address(d.recipient) AS recipient, d.kind, d.tenant,
       to_char(d.doubt_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS doubt_since, extract(epoch FROM d.age)::float8 AS age_s, d.marked_by, d.relay_name, d.relay_host,
       d.relay_incarnation, d.relay_signed_off, d.relay_state, d.route, d.phase, d.server, d.server_known_by, d.message_id_header, d.search_for,
       to_char(d.search_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS search_from, to_char((date_trunc('second', d.search_until) + interval '1 second') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS search_until,
       to_char(d.intent_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS intent_at, d.intents, d.resends,
       to_char(d.may_be_alive_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS may_be_alive_until, d.may_be_alive, d.may_be_alive AND d.may_be_alive_until <= now() IS TRUE AS grace_over, outbox.mask_words(d.note, d.recipient) AS note
FROM outbox.in_doubt d
WHERE ($1::uuid IS NULL OR d.token = $1) AND ($2::uuid IS NULL OR d.message_id = $2) AND ($3::int4 IS NULL OR d.recipient_no = $3)
  AND ($4::text IS NULL OR d.kind = $4)
ORDER BY d.doubt_since, d.message_id, d.recipient_no LIMIT $5
