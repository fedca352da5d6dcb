-- outbox.note_address: another relay's heartbeat goes on here, so this is the armed server, behind another address.
SELECT /* outbox.note_address */ outbox.note_address($1) AS noted
