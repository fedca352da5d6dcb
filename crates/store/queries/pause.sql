-- outbox.pause: lets a route, a kind, a tenant or an address wait; $5 seconds, or until it is resumed.
SELECT /* outbox.pause */ outbox.pause($1, route => $2, kind => $3, tenant => $4, until => now() + $5 * interval '1 second', address => $6) AS result
