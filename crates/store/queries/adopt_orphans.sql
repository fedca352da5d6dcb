-- outbox.adopt_orphans: what is due in lanes of routes that no relay has goes into those of the default route.
SELECT /* outbox.adopt_orphans */ outbox.adopt_orphans($1) AS moved
