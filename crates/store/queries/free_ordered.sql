-- outbox.free_ordered: keys whose head ended while their next delivery was being committed, a page of keys behind $1.
SELECT /* outbox.free_ordered */ f.freed, f.next FROM outbox.free_ordered($1) f
