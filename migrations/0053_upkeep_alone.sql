-- breaking: no
-- What cannot be done of the upkeep (a view on an old week, an event trigger that refuses DDL, a table in the way) is noted and
-- tried again by itself; before, it rolled back all the rest.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.note_failed(p_what text, p_doing text, p_state text, p_message text, p_detail text, OUT action text, OUT detail text) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  -- The detail of dependencies names objects; others may have rows in it.
  SELECT n.* INTO action, detail FROM outbox.note_postponed(p_what, format('cannot be %s: %s%s', p_doing, p_message,
    CASE WHEN p_state LIKE '2B%' AND p_detail <> '' THEN format(' (%s)', replace(p_detail, E'\n', '; ')) ELSE '' END), 'postponed') n;
END $$;
COMMENT ON FUNCTION outbox.note_failed(text, text, text, text, text) IS 'Private: notes a part of the upkeep that failed, and why.';

DO $migration$
DECLARE
  door regprocedure;
  patches text[];
  source text;
BEGIN
  FOR door, patches IN VALUES
    ('outbox.maintain(interval, interval)'::regprocedure, ARRAY[
      $a$  gone bigint;
BEGIN$a$, $b$  gone bigint;
  failed_detail text;
BEGIN$b$,
      $a$  FOR week IN SELECT generate_series$a$, $b$  DELETE FROM outbox.upkeep_postponed u WHERE u.last_at < now() - interval '7 days' AND u.unqueued IS NULL;
  FOR week IN SELECT generate_series$b$,
      $a$        action := 'created'; detail := child; RETURN NEXT;$a$, $b$        DELETE FROM outbox.upkeep_postponed u WHERE u.what = child;
        action := 'created'; detail := child; RETURN NEXT;$b$,
      $a$        WHEN check_violation THEN
          action := 'postponed'; detail := format('%s: %s', child, SQLERRM); RETURN NEXT;$a$, $b$        WHEN OTHERS THEN
          GET STACKED DIAGNOSTICS failed_detail = PG_EXCEPTION_DETAIL;
          SELECT n.* INTO action, detail FROM outbox.note_failed(child, 'made', SQLSTATE, SQLERRM, failed_detail) n;
          RETURN NEXT;$b$]),
    ('outbox.drop_partitions_before(timestamptz)'::regprocedure, ARRAY[
      $a$  budget int := 20000;
BEGIN$a$, $b$  budget int := 20000;
  failed_detail text;
BEGIN$b$,
      $a$  strays := ARRAY(SELECT$a$, $b$  IF to_regclass('outbox.message_default') IS NOT NULL THEN
    strays := ARRAY(SELECT$b$,
      $a$ORDER BY m.id LIMIT 1000);$a$, $b$ORDER BY m.id LIMIT 1000);
  END IF;$b$,
      $a$      RETURN NEXT;
    END;
  END LOOP;
END $a$, $b$      RETURN NEXT;
    WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS failed_detail = PG_EXCEPTION_DETAIL;
      SELECT n.* INTO action, detail FROM outbox.note_failed('message_' || stamp, 'dropped', SQLSTATE, SQLERRM, failed_detail) n;
      RETURN NEXT;
    END;
  END LOOP;
END $b$])
  LOOP
    source := pg_get_functiondef(door);
    FOR i IN 1 .. array_length(patches, 1) BY 2 LOOP
      IF length(source) - length(replace(source, patches[i], '')) <> length(patches[i]) THEN
        RAISE EXCEPTION '% is not as it was: %', door, patches[i];
      END IF;
      source := replace(source, patches[i], patches[i + 1]);
    END LOOP;
    EXECUTE source;
  END LOOP;
END $migration$;
