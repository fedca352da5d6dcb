-- outbox.register: a relay process introduces itself, under an incarnation nobody has ever used.
INSERT /* outbox.register */ INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace)
VALUES ($1, $2, $3, $4, $5, $6 * interval '1 second')
