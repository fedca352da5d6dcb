-- outbox.maintain: partitions ahead, expired keys.
SELECT /* outbox.maintain */ action, detail FROM outbox.maintain()
