-- outbox.armed: what claim, intend and settle will name, and whether this server keeps what it promises.
SELECT /* outbox.armed */ c.epoch, c.identity, CASE WHEN pg_is_in_recovery() THEN '' ELSE outbox.database_identity() END AS found, current_setting('fsync') = 'on' AS fsync,
       pg_is_in_recovery() AS in_recovery, current_setting('server_version_num')::int AS version
FROM outbox.control c
