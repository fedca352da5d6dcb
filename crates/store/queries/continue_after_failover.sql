-- outbox.continue_after_failover: policy after_failover = continue, checked once more inside.
SELECT /* outbox.continue_after_failover */ outbox.continue_after_failover($1, $2, $3) AS armed
