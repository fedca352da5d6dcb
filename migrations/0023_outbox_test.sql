-- breaking: no
-- Schema outbox_test: what the current transaction has enqueued, for the applications' own test suites.
SET LOCAL lock_timeout = '5s';

-- Privileges in more than one schema. A schema that is missing, or that belongs to somebody else, is none of ours to grant in.
ALTER TABLE outbox.privilege ADD COLUMN schema name NOT NULL DEFAULT 'outbox';
COMMENT ON COLUMN outbox.privilege.schema IS 'Where the names are: outbox or outbox_test. Whoever has something there has USAGE of it; of outbox all have.';

CREATE OR REPLACE FUNCTION outbox.grant_roles() RETURNS TABLE (grantee text, grants int) LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  place record;
  kind text;
  rule record;
  object record;
BEGIN
  FOR grantee IN
    SELECT 'PUBLIC'
    UNION ALL
    (SELECT r.rolname FROM pg_roles r WHERE r.rolname IN ('outbox_producer', 'outbox_relay', 'outbox_operator', 'outbox_viewer', 'outbox_monitor') ORDER BY 1)
  LOOP
    grants := 0;
    FOR place IN
      SELECT n.oid, n.nspname AS name FROM pg_namespace n
      WHERE n.nspname = 'outbox' OR (n.nspname = 'outbox_test' AND pg_has_role(n.nspowner, 'USAGE')) ORDER BY 2
    LOOP
      -- First nothing: for PUBLIC, and for our roles what an older version gave.
      FOREACH kind IN ARRAY ARRAY['SCHEMA', 'ALL TABLES IN SCHEMA', 'ALL SEQUENCES IN SCHEMA', 'ALL ROUTINES IN SCHEMA'] LOOP
        EXECUTE format('REVOKE ALL ON %s %I FROM %s', kind, place.name, CASE grantee WHEN 'PUBLIC' THEN grantee ELSE quote_ident(grantee) END);
      END LOOP;
      CONTINUE WHEN grantee = 'PUBLIC' OR (place.name <> 'outbox'
        AND NOT EXISTS (SELECT FROM outbox.privilege r WHERE r.schema = place.name AND grantee = ANY (string_to_array(r.roles, ' '))));
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', place.name, grantee);
      grants := grants + 1;
      FOR rule IN
        SELECT r.privileges, unnest(r.names) AS name FROM outbox.privilege r
        WHERE r.schema = place.name AND grantee = ANY (string_to_array(r.roles, ' '))
      LOOP
        FOR object IN
          SELECT format('FUNCTION %s', p.oid::regprocedure) AS what FROM pg_proc p
          WHERE rule.privileges = 'EXECUTE' AND p.pronamespace = place.oid AND p.proname = rule.name
          UNION ALL
          SELECT format('TABLE %s', c.oid::regclass) FROM pg_class c
          WHERE rule.privileges <> 'EXECUTE' AND c.relnamespace = place.oid AND c.relname = rule.name
        LOOP
          EXECUTE format('GRANT %s ON %s TO %I', rule.privileges, object.what, grantee);
          grants := grants + 1;
        END LOOP;
      END LOOP;
    END LOOP;
    IF grantee <> 'PUBLIC' THEN RETURN NEXT; END IF;
  END LOOP;
END $$;

INSERT INTO outbox.privilege (schema, roles, privileges, names) VALUES
  ('outbox_test', 'outbox_producer', 'EXECUTE', '{assert_enqueued,assert_nothing_enqueued,enqueued,last,rendered}');

COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS
'Private: raises what a producer did wrong. The argument is named in the message and in the COLUMN field, what to do is in HINT; no value is ever repeated. SQLSTATEs: 22H01 kind; 22H02 number and shape of recipients; 22H03 an address; 22H04 forms of content; 22H05 payload; 22H06 subject; 22H07 headers; 22H08 attachments; 22H09 raw_message; 22H10 size of the bodies; 22H11 not_before, expires_at; 22H12 priority, on_doubt; 22H13 dedup_key, dedup_ttl, ordering_key; 22H14 route, tenant, locale; 22H15 traceparent, tracestate; 22H16 an id from the client; 22H17 the document given to enqueue_many; 23H01 dedup_key used for other content; 23H02 dedup_key cannot be released. Deciding: 22H50 a reason is missing; 22H51 no such delivery; 22H52 a verdict that is none; 22H53 token is required; 22H54 too early for this verdict; 22H55 nothing says which doubts; 22H56 has not ended, or is suppressed. Testing: 22H60 an argument of an assertion; 22H61 not enqueued in this transaction; 22H62 rendered by the relay; P0004 an assertion of outbox_test does not hold. Others: 40001 run the transaction again; HX001 not the database the relay was armed for.';

-- From here on to the end is what makes the schema again where it was dropped.
CREATE SCHEMA outbox_test;
COMMENT ON SCHEMA outbox_test IS
'Hapax: for the tests of your application, inside the transaction that each of them rolls back. Shows what the current transaction has enqueued, never anything else. Where nobody tests (in production) a DBA may run DROP SCHEMA outbox_test CASCADE: nothing else of Hapax uses it, and hapax migrate goes on as before. To have it again: the end of 0023_outbox_test.sql (hapax migrate sql prints it), from CREATE SCHEMA on, in one transaction.';

-- message.txid alone would do, but in a copy that came from another server (restored, replicated) the numbers are of another
-- counter. A row that is visible while the transaction that wrote it, or its savepoint, is in progress is our own.
CREATE FUNCTION outbox_test.is_ours(inserted_by xid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  ours bigint := pg_current_xact_id_if_assigned()::text::bigint;
  later bigint := (inserted_by::text::bigint - ours) & 4294967295; -- a savepoint's number is higher; older rows wrap around
BEGIN
  RETURN CASE WHEN later < 2147483648 THEN pg_xact_status((ours + later)::text::xid8) = 'in progress' ELSE false END;
END $$;
COMMENT ON FUNCTION outbox_test.is_ours(xid) IS 'Private: whether a row that one sees was inserted by the current transaction, given its xmin. Example:
  SELECT outbox_test.is_ours(m.xmin) FROM outbox.message m LIMIT 1;';

CREATE FUNCTION outbox_test.enqueued() RETURNS SETOF outbox.notification LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  -- Ids are wall-clock time. A minute is for clocks that are set while the test runs; one that was set back further and still
  -- is, is seen. A bound at all, because an outbox may have millions of older messages.
  since uuid := outbox.uuid_floor(least(transaction_timestamp(), clock_timestamp()) - interval '1 minute');
  ours xid8 := pg_current_xact_id_if_assigned();
BEGIN
  RETURN QUERY
    SELECT m.id, m.kind, m.recipients, m.payload, m.subject, m.body_text, m.body_html, m.raw_message, m.sender, m.reply_to, m.cc, m.bcc,
      m.headers, m.attachments, m.not_before, m.expires_at, m.priority, m.ordering_key, m.dedup_key, NULL::interval, m.on_doubt, m.route, m.tenant, m.locale,
      m.traceparent, m.tracestate
    FROM outbox.message m
    WHERE m.id >= since AND m.txid = ours AND outbox_test.is_ours(m.xmin)
    ORDER BY m.id;
END $$;
COMMENT ON FUNCTION outbox_test.enqueued() IS
'All messages that this transaction has enqueued and no rolled back savepoint has taken with it, in order, as they are stored: the columns of outbox.notification (\d+ explains them); cc and bcc are empty arrays where none was given, dedup_ttl is not kept. A repeat of a dedup_key of another transaction is not among them: it enqueued nothing. Example:
  SELECT kind, recipients, subject, payload FROM outbox_test.enqueued();';

CREATE FUNCTION outbox_test.last() RETURNS SETOF outbox.notification LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 1 AS $$
BEGIN
  RETURN QUERY SELECT e.* FROM outbox_test.enqueued() e ORDER BY e.id DESC LIMIT 1;
END $$;
COMMENT ON FUNCTION outbox_test.last() IS
'The newest message that this transaction has enqueued, as outbox_test.enqueued() shows it; no row when there is none. Example:
  SELECT id, kind, payload->>''order_id'' AS order_id FROM outbox_test.last();';

CREATE FUNCTION outbox_test.listed(with_subject boolean, with_payload boolean) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  lines text[] := ARRAY(
    SELECT left(format('%s to %s', e.kind, array_to_string(e.recipients || e.cc || e.bcc, ', ')), 300)
      || CASE WHEN with_subject THEN format(', subject %L', left(outbox_test.subject_of(e.subject, e.raw_message), 200)) ELSE '' END
      || CASE WHEN with_payload THEN format(', payload %s', coalesce(left(e.payload::text, 500), 'NULL')) ELSE '' END
    FROM outbox_test.enqueued() e ORDER BY e.id);
BEGIN
  RETURN CASE WHEN cardinality(lines) = 0 THEN 'nothing was enqueued'
    ELSE E'enqueued were:\n  ' || array_to_string(lines[:20], E'\n  ') || CASE WHEN cardinality(lines) > 20 THEN format(E'\n  and %s more', cardinality(lines) - 20) ELSE '' END END;
END $$;
COMMENT ON FUNCTION outbox_test.listed(boolean, boolean) IS 'Private: the end of a failed assertion, what this transaction has enqueued instead. Example:
  SELECT outbox_test.listed(with_subject => true, with_payload => false);';

-- RFC 2047 as mail libraries write it; what cannot be decoded stays as it is.
CREATE FUNCTION outbox_test.decoded(header text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  rest text := regexp_replace(header, '(=\?[^? ]+\?[BQbq]\?[^? ]*\?=)[ \t]+(?==\?[^? ]+\?[BQbq]\?[^? ]*\?=)', '\1', 'g');
  result text := '';
  word text[];
  bytes bytea;
BEGIN
  LOOP
    word := regexp_match(rest, '^(.*?)(=\?([^? ]+)\?([BQbq])\?([^? ]*)\?=)(.*)$');
    IF word IS NULL THEN RETURN result || rest; END IF;
    BEGIN
      IF lower(word[4]) = 'b' THEN
        bytes := decode(word[5], 'base64');
      ELSE
        SELECT string_agg(CASE WHEN c[1] LIKE '=__' THEN decode(substr(c[1], 2), 'hex') ELSE convert_to(translate(c[1], '_', ' '), 'UTF8') END, ''::bytea) INTO bytes
        FROM regexp_matches(word[5], '=[0-9A-Fa-f]{2}|.', 'g') c;
      END IF;
      result := result || word[1] || convert_from(coalesce(bytes, ''), replace(lower(split_part(word[3], '*', 1)), 'us-ascii', 'utf8'));
    EXCEPTION WHEN data_exception OR undefined_function THEN
      result := result || word[1] || word[2];
    END;
    rest := word[6];
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox_test.decoded(text) IS 'Private: an unfolded header line with its encoded words (RFC 2047) as text. Example:
  SELECT outbox_test.decoded(''=?utf-8?q?Sch=C3=B6n?='');';

CREATE FUNCTION outbox_test.raw_text(raw_message bytea) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN replace(convert_from(raw_message, 'UTF8'), E'\r\n', E'\n');
EXCEPTION WHEN character_not_in_repertoire THEN
  RETURN replace(encode(raw_message, 'escape'), E'\r\n', E'\n');
END $$;
COMMENT ON FUNCTION outbox_test.raw_text(bytea) IS 'Private: a raw_message as text with line ends as LF; bytes that are no UTF-8 as \nnn. Example:
  SELECT outbox_test.raw_text(''Subject: Hello'');';

CREATE FUNCTION outbox_test.subject_of(subject text, raw_message bytea) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN coalesce(subject, outbox_test.decoded((regexp_match(
    regexp_replace(E'\n' || split_part(outbox_test.raw_text(raw_message), E'\n\n', 1), '\n([ \t])', '\1', 'g'), '\nsubject[ \t]*:[ \t]*([^\n]*)', 'i'))[1]));
END $$;
COMMENT ON FUNCTION outbox_test.subject_of(text, bytea) IS 'Private: the subject, also where it is a header of a raw_message; NULL where a template makes it. Example:
  SELECT outbox_test.subject_of(NULL, E''Subject: Hello\n\n'');';

CREATE FUNCTION outbox_test.assert_enqueued(kind text, recipient text, subject text DEFAULT NULL, payload jsonb DEFAULT NULL, times int DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  address text := lower(outbox.address_of(assert_enqueued.recipient));
  missing text := CASE WHEN assert_enqueued.kind IS NULL THEN 'kind' WHEN assert_enqueued.recipient IS NULL THEN 'recipient' END;
  found uuid[];
BEGIN
  -- NULL is what a test passes whose own fixture is broken, not "any".
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22H60', MESSAGE = format('outbox_test.assert_enqueued: %s: is missing', missing), COLUMN = missing,
      HINT = 'name the kind and one address; for anything else look at outbox_test.enqueued()';
  END IF;
  IF assert_enqueued.times < 0 THEN
    RAISE EXCEPTION USING ERRCODE = '22H60', MESSAGE = 'outbox_test.assert_enqueued: times: is negative', COLUMN = 'times', HINT = '0 asserts that there is none';
  END IF;
  found := ARRAY(
    SELECT e.id FROM outbox_test.enqueued() e
    WHERE e.kind = assert_enqueued.kind
      AND EXISTS (SELECT FROM unnest(e.recipients || e.cc || e.bcc) a WHERE lower(outbox.address_of(a)) = address)
      AND (assert_enqueued.subject IS NULL OR outbox_test.subject_of(e.subject, e.raw_message) = assert_enqueued.subject)
      AND (assert_enqueued.payload IS NULL OR e.payload::jsonb @> assert_enqueued.payload)
    ORDER BY e.id DESC);
  IF cardinality(found) = assert_enqueued.times OR (assert_enqueued.times IS NULL AND cardinality(found) > 0) THEN
    RETURN found[1];
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'P0004',
    MESSAGE = format('outbox_test.assert_enqueued: expected %s of kind %s to %s%s%s in this transaction, found %s; %s',
      coalesce(assert_enqueued.times::text, 'at least one'), assert_enqueued.kind, address,
      ', subject ' || quote_literal(assert_enqueued.subject), ', payload ' || assert_enqueued.payload::text, cardinality(found),
      outbox_test.listed(assert_enqueued.subject IS NOT NULL, assert_enqueued.payload IS NOT NULL)),
    HINT = 'messages of other transactions and of rolled back savepoints do not count; the repeat of a dedup_key enqueues nothing';
END $$;
COMMENT ON FUNCTION outbox_test.assert_enqueued(text, text, text, jsonb, int) IS
'Asserts that this transaction has enqueued a message of this kind to this address (in recipients, cc or bcc; upper case or a name do not matter) and returns its id, of several the newest. Further expectations: subject, equal, also that of a raw_message; payload, contained (@>) in the message''s; times, exactly so many messages, 0 for none. Otherwise an assertion failure (SQLSTATE P0004, which WHEN OTHERS does not catch) lists what was enqueued instead. A message that was cancelled again counts, outbox.status(id) tells. Example:
  BEGIN;
  SELECT outbox.enqueue(''order_confirmed'', ''{ada@example.org}'', ''{"order_id": 42, "total": "19.90"}'');
  SELECT outbox_test.assert_enqueued(''order_confirmed'', ''ada@example.org'', payload => ''{"order_id": 42}'', times => 1);
  ROLLBACK;';

CREATE FUNCTION outbox_test.assert_nothing_enqueued() RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  messages bigint := (SELECT count(*) FROM outbox_test.enqueued());
BEGIN
  IF messages > 0 THEN
    RAISE EXCEPTION USING ERRCODE = 'P0004',
      MESSAGE = format('outbox_test.assert_nothing_enqueued: expected nothing in this transaction, found %s; %s', messages, outbox_test.listed(false, false));
  END IF;
END $$;
COMMENT ON FUNCTION outbox_test.assert_nothing_enqueued() IS
'Asserts that this transaction has enqueued nothing, or only what a rolled back savepoint has taken with it. Otherwise an assertion failure (SQLSTATE P0004) lists it. Example:
  SELECT outbox_test.assert_nothing_enqueued();';

CREATE FUNCTION outbox_test.rendered(id uuid) RETURNS TABLE (subject text, body_text text, body_html text, raw_headers text, raw_body text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 1 AS $$
#variable_conflict use_column
DECLARE
  n outbox.notification;
  raw text;
  ends int;
BEGIN
  SELECT e.* INTO n FROM outbox_test.enqueued() e WHERE e.id = rendered.id;
  IF NOT FOUND THEN
    RAISE EXCEPTION USING ERRCODE = '22H61', MESSAGE = 'outbox_test.rendered: id: is of no message that this transaction has enqueued', COLUMN = 'id',
      HINT = 'look at outbox_test.enqueued(); a repeated dedup_key has the id of the first message';
  END IF;
  IF n.payload IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22H62', MESSAGE = format('outbox_test.rendered: id: the template of kind %s is rendered by the relay, not here', n.kind), COLUMN = 'id',
      HINT = 'look at payload, which is all that the application gives: SELECT payload FROM outbox_test.last()';
  END IF;
  IF n.raw_message IS NOT NULL THEN
    raw := outbox_test.raw_text(n.raw_message);
    ends := position(E'\n\n' IN raw);
  END IF;
  RETURN QUERY SELECT outbox_test.subject_of(n.subject, n.raw_message), n.body_text, n.body_html, left(raw, ends), substr(raw, ends + 2);
END $$;
COMMENT ON FUNCTION outbox_test.rendered(uuid) IS
'What is known of a message of this transaction before the relay has it: subject, and body_text and body_html; of a raw_message its header block and its body as they are, with line ends as LF, and the subject decoded. For a payload an error (22H62): templates are the relay''s, look at the payload. Example:
  BEGIN;
  SELECT r.subject, r.body_text FROM outbox_test.rendered(outbox.enqueue(''welcome'', ''{ada@example.org}'', subject => ''Welcome'', body_text => ''Good to have you.'')) r;
  ROLLBACK;';

SELECT outbox.grant_roles();
