-- outbox.unqueued: messages behind a cursor that have neither a queue row nor a terminal record: they came past the doors
-- (an INSERT into a leaf partition, session_replication_role = replica) and would never be sent. A bounded page by key; a
-- message and its queue rows are one transaction, and so are a queue row's end and its terminal record.
WITH page AS MATERIALIZED (
  SELECT m.id FROM outbox.message m
  WHERE m.id > greatest($1, outbox.uuid_floor(now() - interval '1 day')) ORDER BY m.id LIMIT $2
)
SELECT /* outbox.unqueued */ count(*) AS looked, (array_agg(p.id ORDER BY p.id DESC))[1] AS last,
       (array_agg(p.id ORDER BY p.id) FILTER (WHERE p.missing))[1:10] AS missing, count(*) FILTER (WHERE p.missing) AS how_many
FROM (
  SELECT page.id, NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = page.id)
                  AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = page.id) AS missing FROM page) p
