-- outbox.attachments_of: what a message has attached, with sizes in place of contents. All of them are read for it: never where
-- others wait.
SELECT /* outbox.attachments_of */ outbox.without_contents(m.attachments)::text FROM outbox.message m WHERE m.id = $1
