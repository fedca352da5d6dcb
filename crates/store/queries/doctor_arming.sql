-- outbox.doctor_arming: whether a relay would send from this server; what it compares itself, without asserting it.
SELECT /* outbox.doctor_arming */ c.identity, outbox.database_identity() AS found, outbox.address_is_known() AS address_known FROM outbox.control c
