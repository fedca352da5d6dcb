-- outbox.nothing_yet: whether no migration was ever applied here. Waits for no lock.
SELECT /* outbox.nothing_yet */ to_regclass('outbox.migration') IS NULL AS nothing_yet
