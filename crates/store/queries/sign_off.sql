-- outbox.sign_off: all sockets are closed, all settles done; whatever still carries an intent of this incarnation is doubt.
UPDATE /* outbox.sign_off */ outbox.relay SET signed_off_at = now() WHERE incarnation = $1
