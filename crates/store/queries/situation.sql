-- outbox.situation: what guard mode looks at: which server answers, and what it is armed for. Asserts nothing.
SELECT /* outbox.situation */ c.epoch, c.identity, CASE WHEN pg_is_in_recovery() THEN '' ELSE outbox.database_identity() END AS found, pg_is_in_recovery() AS in_recovery
FROM outbox.control c
