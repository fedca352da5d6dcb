-- outbox.quarantine: holds a batch of what an unknown part of history may have sent. Repeating it goes on where it was.
SELECT /* outbox.quarantine */ q.held, q.finished FROM outbox.quarantine($1) q
