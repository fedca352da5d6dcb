-- outbox.suspect_copy: nobody's heartbeat goes on at this unknown address: the next arming holds what is pending.
SELECT /* outbox.suspect_copy */ outbox.suspect_copy()::text
