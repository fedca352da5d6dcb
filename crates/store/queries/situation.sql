-- outbox.situation: what guard mode looks at: which server answers, what it is armed for, and whether its history has the
-- epoch $1 of this relay. Asserts nothing.
SELECT /* outbox.situation */ c.epoch, c.identity, CASE WHEN pg_is_in_recovery() THEN '' ELSE outbox.database_identity() END AS found, pg_is_in_recovery() AS in_recovery,
       outbox.descends_from($1) AS descends
FROM outbox.control c
