-- outbox.follow_digests: what digests were made of ends as they have; with $3 also where an outcome has changed since.
WITH guard AS MATERIALIZED (
  SELECT outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.follow_digests */ f.told FROM guard g CROSS JOIN LATERAL outbox.follow_digests($3) AS f (told) WHERE g.ok
