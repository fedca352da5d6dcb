-- outbox.suppress: nothing is sent to this address; for $5 seconds, or until it is taken off the list.
SELECT /* outbox.suppress */ outbox.suppress($1, $2, kind => $3, tenant => $4, until => now() + $5 * interval '1 second', note => $6, keep_address => $7) AS result
