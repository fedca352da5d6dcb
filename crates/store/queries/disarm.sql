-- outbox.disarm: this relay's own heartbeat has fallen back, so this is an earlier state of the database.
SELECT /* outbox.disarm */ outbox.disarm($1, $2, $3) AS fallen_back
