-- outbox.traceparents: the trace contexts that producers gave with their messages, for relays that trace.
SELECT /* outbox.traceparents */ id, traceparent FROM outbox.message WHERE id = ANY ($1) AND traceparent IS NOT NULL
