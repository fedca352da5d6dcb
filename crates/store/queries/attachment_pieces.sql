-- outbox.attachment_pieces: the base64 text of one large attachment, row by row, so that it is never in memory whole.
SELECT /* outbox.attachment_pieces */ piece FROM outbox.attachment_pieces($1, $2, $3) AS piece
