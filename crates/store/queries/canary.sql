-- outbox.canary: enqueues a canary when its slot has none and none is under way, in the database this relay was armed for, and
-- says what is known of the last ones. Point lookups; whoever comes second waits for nobody.
WITH guard AS MATERIALIZED (
  SELECT outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.canary */ c.enqueued, c.under_way, date_part('epoch', c.enqueued_at) AS enqueued_s, date_part('epoch', c.completed_at) AS completed_s, date_part('epoch', c.next_in) AS next_in_s
FROM guard CROSS JOIN LATERAL outbox.canary($3, $4 * interval '1 second', $5, $6) c
WHERE guard.ok
