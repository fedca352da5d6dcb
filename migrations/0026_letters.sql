-- breaking: no
-- Large contents are read piece by piece, and an attachment may be named by a path or an address instead of being brought along.
SET LOCAL lock_timeout = '5s';

-- As in 0024, and: an attachment may be a path below the relay's directory or an https address.
CREATE OR REPLACE FUNCTION outbox.check_attachments(door text, attachments jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  attachment jsonb;
  element int := 0;
  encoded text;
  decoded bytea;
  problem text;
  total bigint := 0;
  ways int;
BEGIN
  IF jsonb_typeof(attachments) <> 'array' THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'must be a JSON array', 'write [{"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "..."}]; instead of content_base64 a path or url, with sha256 if you know it');
  END IF;
  IF jsonb_array_length(attachments) > 100 THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'has more than 100 elements', 'send fewer, or an archive');
  END IF;
  FOR attachment IN SELECT jsonb_array_elements(attachments) LOOP
    element := element + 1;
    ways := CASE WHEN jsonb_typeof(attachment) = 'object' THEN num_nonnulls(attachment ->> 'content_base64', attachment ->> 'path', attachment ->> 'url') END;
    problem := CASE
      WHEN jsonb_typeof(attachment) <> 'object' THEN 'is not an object'
      WHEN attachment - '{filename,content_type,content_base64,content_id,path,url,sha256}'::text[] <> '{}' THEN 'has a key other than filename, content_type, content_base64, path, url, sha256, content_id'
      WHEN jsonb_typeof(attachment -> 'filename') IS DISTINCT FROM 'string' OR attachment ->> 'filename' = '' THEN 'has no filename'
      WHEN length(attachment ->> 'filename') > 255 THEN 'has a filename longer than 255 characters'
      WHEN octet_length(attachment ->> 'filename') > 500 THEN 'has a filename longer than 500 bytes'
      WHEN attachment ->> 'content_type' ~* '^multipart/' THEN 'has a content_type of several parts'
      WHEN attachment ->> 'filename' ~ '[\u0001-\u001f\u007f-\u009f]' THEN 'has a control character in filename'
      WHEN ways = 0 THEN 'has none of content_base64, path, url'
      WHEN ways > 1 THEN 'has more than one of content_base64, path, url'
      WHEN jsonb_typeof(attachment -> 'content_base64') NOT IN ('string', 'null') THEN 'has no content_base64'
      WHEN jsonb_typeof(attachment -> 'path') NOT IN ('string', 'null') OR attachment ->> 'path' = '' OR length(attachment ->> 'path') > 1000
        OR attachment ->> 'path' ~ '[\u0001-\u001f\u007f-\u009f]' OR attachment ->> 'path' ~ '^/|(^|/)\.\.?(/|$)' THEN 'has a path that is not relative and plain (no /, . or .. to lead elsewhere)'
      WHEN jsonb_typeof(attachment -> 'url') NOT IN ('string', 'null') OR attachment ->> 'url' !~ '^https://[!-~]+$' OR length(attachment ->> 'url') > 2000 THEN 'has a url that is not an https address'
      WHEN jsonb_typeof(attachment -> 'sha256') NOT IN ('string', 'null') OR attachment ->> 'sha256' !~ '^[0-9a-f]{64}$' THEN 'has a sha256 that is not 64 hexadecimal digits in lower case'
      WHEN attachment ->> 'sha256' IS NOT NULL AND attachment ->> 'content_base64' IS NOT NULL THEN 'has a sha256 although it brings its content'
      WHEN jsonb_typeof(attachment -> 'content_type') NOT IN ('string', 'null') OR length(attachment ->> 'content_type') > 255
        OR attachment ->> 'content_type' !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?: *; *[A-Za-z0-9!#$&^_.+-]+=(?:[A-Za-z0-9!#$&^_.+-]+|"[ !#-[\]-~]*"))*$' THEN 'has a malformed content_type'
      WHEN jsonb_typeof(attachment -> 'content_id') NOT IN ('string', 'null') OR length(attachment ->> 'content_id') > 255
        OR attachment ->> 'content_id' !~ '^[!-;=?-~]+$' THEN 'has a malformed content_id'
      END;
    IF problem IS NULL AND attachment ->> 'content_base64' IS NOT NULL THEN
      encoded := attachment ->> 'content_base64';
      -- Encoders that wrap lines are common; the relay reads it without.
      IF encoded ~ '[ \t\r\n]' THEN
        encoded := translate(encoded, E' \t\r\n', '');
        attachments := jsonb_set(attachments, ARRAY[(element - 1)::text, 'content_base64'], to_jsonb(encoded));
      END IF;
      BEGIN
        decoded := decode(encoded, 'base64');
        total := total + length(decoded);
        -- Strict decoders refuse stray bits in the last group.
        IF encoded ~ '=[^=]' THEN problem := 'has content_base64 that is not base64'; END IF;
        IF right(encoded, 4) <> encode(decode(right(encoded, 4), 'base64'), 'base64') THEN problem := 'has content_base64 that is not base64'; END IF;
      EXCEPTION WHEN data_exception THEN
        problem := 'has content_base64 that is not base64';
      END;
    END IF;
    IF problem IS NOT NULL THEN
      PERFORM outbox.refuse('22H08', door, 'attachments', format('element %s %s', element, problem), 'write [{"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "..."}]; instead of content_base64 a path or url, with sha256 if you know it');
    END IF;
  END LOOP;
  IF total > 26214400 THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'has more than 25 MB in all', 'send a link instead');
  END IF;
  RETURN attachments;
END $$;

CREATE FUNCTION outbox.letters_of(p_ids uuid[], p_inline_bytes_max bigint)
RETURNS TABLE (id uuid, created_at_us bigint, kind text, sender text, reply_to text, recipients text[], cc text[], bcc text[], payload text, subject text, body_text text, body_html text,
               raw_message bytea, raw_bytes bigint, headers text, attachments text, priority text, expires_in_s float8, age_s float8, on_doubt text, route text, tenant text, locale text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT m.id, round(date_part('epoch', m.created_at) * 1000000)::bigint, m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc,
    m.payload::text, m.subject, m.body_text, m.body_html,
    CASE WHEN octet_length(m.raw_message) <= $2 THEN m.raw_message END, octet_length(m.raw_message)::bigint, m.headers::text,
    -- What lies in the row, compressed: nothing is decompressed to find out.
    CASE WHEN pg_column_size(m.attachments) <= $2 THEN m.attachments::text ELSE outbox.without_contents(m.attachments)::text END,
    m.priority, date_part('epoch', m.expires_at - now()),
    date_part('epoch', now() - greatest(m.created_at, m.not_before)),
    m.on_doubt, m.route, m.tenant, m.locale
  FROM unnest($1) AS wanted (id) CROSS JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = ANY (ARRAY[wanted.id])) m;
END $$;
COMMENT ON FUNCTION outbox.letters_of(uuid[], bigint) IS 'Relays: what claimed deliveries say, one partition looked at per message; of what is larger than p_inline_bytes_max, only how large.';

CREATE FUNCTION outbox.without_contents(attachments jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT jsonb_agg(a.attachment - 'content_base64' || CASE WHEN a.attachment ->> 'content_base64' IS NULL THEN '{}'
                         ELSE jsonb_build_object('base64_bytes', octet_length(a.attachment ->> 'content_base64')) END ORDER BY a.no)
        FROM jsonb_array_elements(attachments) WITH ORDINALITY AS a (attachment, no));
COMMENT ON FUNCTION outbox.without_contents(jsonb) IS 'Private: attachments with the size of each content in place of the content.';

CREATE FUNCTION outbox.attachment_pieces(p_id uuid, p_element int, p_piece_bytes int) RETURNS SETOF bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  content bytea;
  at int := 1;
BEGIN
  SELECT convert_to(m.attachments -> (p_element - 1) ->> 'content_base64', 'UTF8') INTO content FROM outbox.message m WHERE m.id = p_id;
  WHILE at <= octet_length(content) LOOP
    RETURN NEXT substr(content, at, p_piece_bytes);
    at := at + p_piece_bytes;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.attachment_pieces(uuid, int, int) IS 'Relays: the base64 text of one attachment (counted from 1) of a message, in pieces.';

CREATE FUNCTION outbox.raw_pieces(p_id uuid, p_piece_bytes int) RETURNS SETOF bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  content bytea;
  at int := 1;
BEGIN
  SELECT m.raw_message INTO content FROM outbox.message m WHERE m.id = p_id;
  WHILE at <= octet_length(content) LOOP
    RETURN NEXT substr(content, at, p_piece_bytes);
    at := at + p_piece_bytes;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.raw_pieces(uuid, int) IS 'Relays: a finished message in pieces.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{letters_of,without_contents,attachment_pieces,raw_pieces}'::text[]);
SELECT outbox.grant_roles();
