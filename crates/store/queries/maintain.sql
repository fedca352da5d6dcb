-- outbox.maintain: partitions ahead, expired keys, weeks that have ended for so many seconds (NULL: none).
SELECT /* outbox.maintain */ action, detail FROM outbox.maintain(keep => $1 * interval '1 second')
