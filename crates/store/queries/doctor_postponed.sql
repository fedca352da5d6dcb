-- outbox.doctor_postponed: weeks that should have been dropped days ago, and why they are still there.
SELECT /* outbox.doctor_postponed */ u.what, u.why, extract(epoch FROM now() - u.since)::float8 AS since_s
FROM outbox.upkeep_postponed u WHERE u.since < now() - interval '2 days' AND u.last_at > now() - interval '1 day' ORDER BY u.since
