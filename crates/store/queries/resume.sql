-- outbox.resume: ends a pause.
SELECT /* outbox.resume */ outbox.resume($1, route => $2, kind => $3, tenant => $4, address => $5) AS result
