-- outbox.unsuppress: takes an address off the suppression list.
SELECT /* outbox.unsuppress */ outbox.unsuppress($1, $2, kind => $3, tenant => $4) AS result
