-- outbox.armed_state: whether relays send from this database, for people; also on a standby, also without being armed.
SELECT /* outbox.armed_state */ a.armed, a.standby, a.copy, a.armed_for, a.here, a.address, a.port, a.database FROM outbox.armed_state() a
