-- outbox.remove_contents: a batch of messages that have ended for long enough loses its content.
SELECT /* outbox.remove_contents */ removed, more FROM outbox.remove_contents($1, $2, $3, $4)
