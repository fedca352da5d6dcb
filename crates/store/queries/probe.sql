-- outbox.probe: whether the listening connection hears. Sent through the pool, on another connection: behind a pooler in
-- transaction mode it is heard by whomever the backend serves then, or by nobody.
SELECT /* outbox.probe */ pg_notify('hapax', $1)
