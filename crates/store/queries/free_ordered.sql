-- outbox.free_ordered: keys whose head ended while their next delivery was being committed.
SELECT /* outbox.free_ordered */ outbox.free_ordered() AS freed
