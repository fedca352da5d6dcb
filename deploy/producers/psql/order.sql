-- An order and its mail, from a shell script:
--
--   psql -X -q -A -t -v ON_ERROR_STOP=1 -v email="$email" -v total="$total" -f order.sql "$DATABASE_URL"
--
-- prints the message's id. It is one statement, so both happen or neither. With more in the same transaction:
-- psql -1 ... -f order.sql -f more.sql. Without ON_ERROR_STOP=1 psql goes on after an error and exits with 0.
--
-- Values come by -v and are used as :'name', which quotes them; "... '$email' ..." in a script would be a hole.
-- Two more may be given: subject, and dedup_key, which names the event (-v dedup_key=order-42-confirmed): run again
-- with the same content it gives the first id, and nothing is sent twice. The order itself is inserted again, unless
-- your table has a unique key that forbids it.
\if :{?subject}
\else
  \set subject 'Your order'
\endif
\if :{?dedup_key}
\else
  \set dedup_key ''
\endif

WITH placed AS (
  INSERT INTO orders (email, total) VALUES (:'email', :'total') RETURNING email
)
SELECT outbox.enqueue(
  kind       => 'order_confirmed',
  recipients => ARRAY[placed.email],
  subject    => :'subject',
  body_text  => 'Thank you.',
  dedup_key  => nullif(:'dedup_key', '')
)
FROM placed;
