-- outbox.register: a relay process introduces itself, under an incarnation nobody has ever used: whatever is there already is
-- this very statement, repeated because its answer was lost.
INSERT /* outbox.register */ INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace)
VALUES ($1, $2, $3, $4, $5, $6 * interval '1 second')
ON CONFLICT (incarnation) DO NOTHING
