-- outbox.suppress_bounced: the recipient of a hard bounce goes on the suppression list. The relay names the attempt; the
-- ledger decides whether it was one.
WITH guard AS MATERIALIZED (
  SELECT outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.suppress_bounced */ outbox.suppress_bounced($3, $4, $5, $6, $7) AS result FROM guard g WHERE g.ok
