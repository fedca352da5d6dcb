-- outbox.raw_pieces: a large finished message, row by row.
SELECT /* outbox.raw_pieces */ piece FROM outbox.raw_pieces($1, $2) AS piece
