-- outbox.suppression_list: the suppression list, newest first, or what it has about one address. Masked, whoever looks.
SELECT /* outbox.suppression_list */ s.id, outbox.mask_address(s.address) AS address, s.reason, s.kind, s.tenant, s.entered_by::text AS entered_by, outbox.mask_text(s.note) AS note,
       to_char(s.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since, to_char(s.until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS until, coalesce(s.over, false) AS over
FROM outbox.suppressions s
WHERE $1::text IS NULL OR s.id = ANY (ARRAY(SELECT outbox.find_suppressions($1)))
ORDER BY s.id DESC LIMIT $2
