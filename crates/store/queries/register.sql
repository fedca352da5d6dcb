-- outbox.register: a relay process introduces itself, under an incarnation nobody has ever used: whatever is there already is
-- this very statement, repeated because its answer was lost. Durable: a row that is gone after a crash of the server would
-- look like an earlier state of the database.
WITH durable AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AS ok
)
INSERT /* outbox.register */ INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace, routes)
SELECT $1, $2, $3, $4, $5, $6 * interval '1 second', $7 FROM durable WHERE durable.ok
ON CONFLICT (incarnation) DO NOTHING
