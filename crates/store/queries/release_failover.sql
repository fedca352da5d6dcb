-- outbox.release_failover: everything held because of a failover goes on, a batch per call.
SELECT /* outbox.release_failover */ outbox.release_failover($1, $2) AS released
