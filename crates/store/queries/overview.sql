-- outbox.overview: how many deliveries are in each state and since when, and how many are due and in nobody's hands. Reads
-- narrow tables, no more than 20,000 index entries of a lane: costs the same on any queue. OFFSET 0: the backlog is
-- counted once, not once a state.
SELECT /* outbox.overview */ h.state, h.deliveries, extract(epoch FROM h.oldest)::float8 AS oldest_s, b.backlog, p.paused
FROM outbox.queue_health h CROSS JOIN (SELECT outbox.backlog() AS backlog OFFSET 0) b
CROSS JOIN (SELECT ARRAY[count(*) FILTER (WHERE p.what = 'route'), count(*) FILTER (WHERE p.what = 'kind'), count(*) FILTER (WHERE p.what = 'tenant'),
                          count(*) FILTER (WHERE p.what = 'address')] AS paused
            FROM outbox.pause p WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now())) p
