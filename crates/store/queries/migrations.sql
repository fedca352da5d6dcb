-- outbox.migrations: what has been applied.
SELECT /* outbox.migrations */ version, name, checksum, breaking,
       to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS applied_at
FROM outbox.migration ORDER BY version
