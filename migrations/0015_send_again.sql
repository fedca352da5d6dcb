-- breaking: no
-- outbox.send_again(): what has ended, as a new message with a Message-ID of its own.
SET LOCAL lock_timeout = '5s';

-- Only the header section is looked at, and byte by byte (LATIN1 knows every byte), so that the body stays what it is.
CREATE FUNCTION outbox.without_message_id(p_raw bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  ends int[] := ARRAY[nullif(position('\x0d0a0d0a'::bytea in p_raw), 0) + 1, nullif(position('\x0a0a'::bytea in p_raw), 0)];
  header_bytes int := least(ends[1], ends[2]);
  header text;
BEGIN
  header := convert_from(substr(p_raw, 1, coalesce(header_bytes, length(p_raw))), 'LATIN1');
  header := regexp_replace(header, '(^|\n)message-id[ \t]*:[^\n]*(\n[ \t][^\n]*)*(\n|$)', '\1', 'i');
  RETURN convert_to(header, 'LATIN1') || CASE WHEN header_bytes IS NULL THEN ''::bytea ELSE substr(p_raw, header_bytes + 1) END;
END $$;
COMMENT ON FUNCTION outbox.without_message_id(bytea) IS 'Private: a raw message without its Message-ID header, for outbox.send_again().';

CREATE FUNCTION outbox.send_again(id uuid, reason text, recipient_no int DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  m outbox.message;
  delivery record;
  known boolean := false;
  again uuid;
BEGIN
  PERFORM outbox.require_reason('send_again', send_again.reason);
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = send_again.id;
  IF NOT FOUND THEN PERFORM outbox.unknown_delivery('send_again', send_again.id, send_again.recipient_no); END IF;
  -- Locked, so that no retry moves a delivery from done back to the queue meanwhile: it would be sent twice.
  PERFORM FROM outbox.done d WHERE d.message_id = m.id FOR UPDATE;
  FOR delivery IN
    SELECT q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state, false AS ended FROM outbox.queue q WHERE q.message_id = m.id
    UNION ALL SELECT d.recipient_no, d.state, d.state <> 'suppressed' FROM outbox.done d WHERE d.message_id = m.id
    ORDER BY 1
  LOOP
    CONTINUE WHEN delivery.recipient_no <> send_again.recipient_no;
    known := true;
    IF NOT delivery.ended THEN
      RAISE EXCEPTION USING ERRCODE = '22H56', COLUMN = 'id',
        MESSAGE = format('outbox.send_again: id: %s/%s is %s', m.id, delivery.recipient_no, delivery.state),
        HINT = CASE delivery.state WHEN 'in_doubt' THEN 'decide it with outbox.resolve()' WHEN 'suppressed' THEN 'its address is suppressed' WHEN 'held' THEN 'release it with outbox.release()'
               ELSE 'it will still be sent; wait for its end, or cancel it first' END;
    END IF;
  END LOOP;
  IF NOT known THEN PERFORM outbox.unknown_delivery('send_again', m.id, send_again.recipient_no); END IF;
  IF send_again.recipient_no IS NOT NULL THEN
    m.recipients := ARRAY[(m.recipients || m.cc || m.bcc)[send_again.recipient_no]];
    m.cc := '{}';
    m.bcc := '{}';
  END IF;
  -- A new id, and with it a new Message-ID and Date: whoever received the first must not take it for a copy. Now, although
  -- the first had a time or an expiry; by itself, although the first had an order or a dedup_key, which stays the first's.
  INSERT INTO outbox.message (kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
                              priority, on_doubt, route, tenant, locale, traceparent, tracestate)
  VALUES (m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc, m.payload, m.subject, m.body_text, m.body_html, outbox.without_message_id(m.raw_message), m.headers, m.attachments,
          m.priority, m.on_doubt, m.route, m.tenant, m.locale, m.traceparent, m.tracestate)
  RETURNING message.id INTO again;
  PERFORM outbox.audit_entry('send again', m.id, d.recipient_no, d.token, send_again.reason, d.state, 'sent again as ' || again)
  FROM outbox.done d WHERE d.message_id = m.id AND (send_again.recipient_no IS NULL OR d.recipient_no = send_again.recipient_no) ORDER BY d.recipient_no;
  RETURN again;
END $$;
COMMENT ON FUNCTION outbox.send_again(uuid, text, int) IS
  'Sends a message whose deliveries have all ended once more, or one delivery of it: as a new message with the same content, a new id and so a new Message-ID, due now. Returns the new id. Refused (22H56) while a delivery is still on its way or in doubt: retry or resolve it instead.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_operator', 'EXECUTE', '{send_again}');
SELECT outbox.grant_roles();
