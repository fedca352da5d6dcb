-- outbox.resolve: a person's decision about a doubt.
SELECT /* outbox.resolve */ outbox.resolve($1, $2, $3, $4, $5, $6) AS result
