-- outbox.reconcile_list: every doubt with what a mail server's log is compared with, the addresses of its message
-- included: for comparing only, they are shown to nobody. No rows for whoever may not see addresses.
SELECT /* outbox.reconcile_list */ d.message_id, d.recipient_no, d.token, d.recipient, outbox.mask_address(d.recipient) AS masked,
       (SELECT coalesce(array_agg(o.recipient), '{}') FROM outbox.deliveries o WHERE o.message_id = d.message_id AND o.recipient_no <> d.recipient_no) AS others,
       d.route, d.server, d.search_for, d.may_be_alive, d.intents,
       extract(epoch FROM least(d.intent_at, d.doubt_since))::float8 AS intent_at_s,
       extract(epoch FROM greatest(d.intent_at, d.doubt_since, d.may_be_alive_until))::float8 AS over_at_s,
       extract(epoch FROM now())::float8 AS now_s,
       d.search_for <> 'message-id=<' || d.message_id AS own_id,
       CASE WHEN d.search_for <> 'message-id=<' || d.message_id THEN outbox.has_namesakes(d.message_id, d.recipient_no) ELSE false END AS namesakes
FROM outbox.in_doubt d
WHERE outbox.may_see_addresses(current_user)
ORDER BY d.message_id, d.recipient_no
