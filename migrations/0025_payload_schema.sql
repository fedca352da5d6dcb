-- breaking: no
-- JSON Schemas of payloads: published by hapax template publish, and where the DBA turns it on, what the doors check payloads by.
SET LOCAL lock_timeout = '2s';

CREATE TABLE outbox.payload_schema (
  kind text PRIMARY KEY,
  schema jsonb NOT NULL,
  sha256 text NOT NULL,
  enforced boolean NOT NULL DEFAULT false,
  published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE outbox.payload_schema IS 'The JSON Schema of each kind that has one: outbox.publish_schema() writes it, outbox.enforce_schema() decides whether payloads that do not fit are refused.';

CREATE VIEW outbox.payload_schemas AS
SELECT s.kind, s.enforced, s.published_at, s.published_by, s.sha256 FROM outbox.payload_schema s;
COMMENT ON VIEW outbox.payload_schemas IS 'The kinds whose payloads have a published schema, and whether the doors refuse what does not fit. sha256 is that of the schema as jsonb text: it differs when the schemas do.';

-- Patterns are ECMAScript's. What Postgres reads alike is kept, the dot and the classes are translated, and anything else is
-- nothing (NULL): look-around, back references, \p, named groups. Taken apart into escapes, classes, beginnings of groups,
-- bounds and single characters. To be used with the collation C, where \w and \d are those of ECMAScript.
CREATE FUNCTION outbox.pattern_of(pattern text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
  SELECT CASE WHEN bool_and(translated IS NOT NULL) THEN string_agg(translated, '' ORDER BY no) WHEN count(*) = 0 THEN '' END
  FROM (
    SELECT t.no, CASE
      WHEN t.token[1] = '.' THEN '[^\n\r\u2028\u2029]'
      WHEN t.token[1] = '\s' THEN '[ \t-\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]'
      WHEN t.token[1] = '\S' THEN '[^ \t-\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]'
      WHEN t.token[1] = '\b' THEN '\y'
      WHEN t.token[1] = '\B' THEN '\Y'
      WHEN t.token[1] ~ '^\\x[0-9A-Fa-f]{2}$' THEN '\u00' || substr(t.token[1], 3)
      WHEN t.token[1] ~ '^\\(?:u[0-9A-Fa-f]{4}|[dDwWnrtfv]|[^A-Za-z0-9])$' THEN t.token[1]
      -- A [ of its own within a class would begin Postgres' [:digit:].
      WHEN t.token[1] ~ '^\[\^?(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[dwsnrtfv]|\\[^A-Za-z0-9]|[^]\\])+\]$' AND t.token[1] <> '[^]' THEN
        '[' || regexp_replace(replace(regexp_replace(substr(t.token[1], 2), '(^|[^\\])\[', '\1\\[', 'g'), '\s',
          ' \t-\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff'), '\\x([0-9A-Fa-f]{2})', '\\u00\1', 'g')
      WHEN t.token[1] = '(?:' OR t.token[1] ~ '^\{[0-9]+(?:,[0-9]*)?\}$' OR t.token[1] ~ '^[^][{}\\]$' THEN t.token[1] END AS translated
    FROM regexp_matches(pattern, '\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\.|\[(?:\\.|[^]\\])*\]|\(\?.?|\{[0-9]+(?:,[0-9]*)?\}|.', 'g') WITH ORDINALITY AS t(token, no)
  ) translation);
COMMENT ON FUNCTION outbox.pattern_of(text) IS 'Private: a pattern of a JSON Schema as a regular expression for the collation C; NULL when Postgres cannot be told to read it alike.';

CREATE FUNCTION outbox.pointer_name(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(replace(name, '~', '~0'), '/', '~1');
COMMENT ON FUNCTION outbox.pointer_name(text) IS 'Private: a name as a part of a JSON pointer.';

-- Names which the payload made up may be addresses: only what looks like a word is repeated.
CREATE FUNCTION outbox.pointer_word(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN length(name) <= 40 AND name ~ '^[A-Za-z_][A-Za-z_-]*$' THEN name ELSE '*' END;
COMMENT ON FUNCTION outbox.pointer_word(text) IS 'Private: a name that no schema declares as a part of a JSON pointer, or * when it could be data.';

-- Draft 2020-12. Simple expressions where possible: plpgsql evaluates them at once, and a statement costs 5 us.
CREATE FUNCTION outbox.part_violation(root jsonb, part jsonb, value jsonb, place text, depth int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
#variable_conflict use_variable
DECLARE
  type text;
  rule jsonb;
  child jsonb;
  name text;
  number numeric;
  problem text;
  known boolean;
  matches int;
BEGIN
  IF jsonb_typeof(part) = 'boolean' THEN
    RETURN CASE WHEN part = 'false' THEN place || ': is not allowed (false)' END;
  END IF;
  IF depth > 100 THEN RETURN place || ': is nested more than 100 levels deep'; END IF;
  type := jsonb_typeof(value);

  rule := part -> 'type';
  IF rule IS NOT NULL AND NOT rule ? type AND NOT (type = 'number' AND rule ? 'integer' AND trunc(value::numeric) = value::numeric) THEN
    RETURN place || ': must be ' || (
      SELECT string_agg(CASE t WHEN 'null' THEN t WHEN 'object' THEN 'an object' WHEN 'array' THEN 'an array' WHEN 'integer' THEN 'an integer' ELSE 'a ' || t END, ' or ' ORDER BY no)
      FROM jsonb_array_elements_text(CASE jsonb_typeof(rule) WHEN 'array' THEN rule ELSE jsonb_build_array(rule) END) WITH ORDINALITY u(t, no)) || ' (type)';
  END IF;
  rule := part -> 'enum';
  -- Containment of a scalar is equality, and of anything else the least.
  IF rule IS NOT NULL THEN
    known := rule @> jsonb_build_array(value);
    IF known AND type IN ('object', 'array') THEN known := EXISTS (SELECT FROM jsonb_array_elements(rule) e WHERE e = value); END IF;
    IF NOT known THEN RETURN place || ': must be one of the values that are allowed (enum)'; END IF;
  END IF;
  IF part -> 'const' <> value THEN RETURN place || ': must be the value that is allowed (const)'; END IF;

  IF type = 'string' AND part ?| '{minLength,maxLength,pattern}' THEN
    name := value #>> '{}';
    IF length(name) < (part -> 'minLength')::numeric THEN RETURN format('%s: must have at least %s characters (minLength)', place, part -> 'minLength'); END IF;
    IF length(name) > (part -> 'maxLength')::numeric THEN RETURN format('%s: must have at most %s characters (maxLength)', place, part -> 'maxLength'); END IF;
    IF part ? 'pattern' THEN
      IF name !~ outbox.pattern_of(part ->> 'pattern') COLLATE "C" THEN RETURN place || ': must match its pattern (pattern)'; END IF;
    END IF;

  ELSIF type = 'number' AND part ?| '{minimum,maximum,exclusiveMinimum,exclusiveMaximum,multipleOf}' THEN
    number := value::numeric;
    IF number < (part -> 'minimum')::numeric THEN RETURN format('%s: must be at least %s (minimum)', place, part -> 'minimum'); END IF;
    IF number > (part -> 'maximum')::numeric THEN RETURN format('%s: must be at most %s (maximum)', place, part -> 'maximum'); END IF;
    IF number <= (part -> 'exclusiveMinimum')::numeric THEN RETURN format('%s: must be more than %s (exclusiveMinimum)', place, part -> 'exclusiveMinimum'); END IF;
    IF number >= (part -> 'exclusiveMaximum')::numeric THEN RETURN format('%s: must be less than %s (exclusiveMaximum)', place, part -> 'exclusiveMaximum'); END IF;
    IF number % (part -> 'multipleOf')::numeric <> 0 THEN RETURN format('%s: must be a multiple of %s (multipleOf)', place, part -> 'multipleOf'); END IF;

  ELSIF type = 'array' AND part ?| '{minItems,maxItems,uniqueItems,prefixItems,items,contains}' THEN
    IF jsonb_array_length(value) < (part -> 'minItems')::numeric THEN RETURN format('%s: must have at least %s elements (minItems)', place, part -> 'minItems'); END IF;
    IF jsonb_array_length(value) > (part -> 'maxItems')::numeric THEN RETURN format('%s: must have at most %s elements (maxItems)', place, part -> 'maxItems'); END IF;
    IF part -> 'uniqueItems' = 'true' THEN
      IF (SELECT count(*) > count(DISTINCT e) FROM jsonb_array_elements(value) e) THEN RETURN place || ': must not have an element twice (uniqueItems)'; END IF;
    END IF;
    IF part ?| '{prefixItems,items}' THEN
      FOR at IN 0..jsonb_array_length(value) - 1 LOOP
        rule := coalesce(part -> 'prefixItems' -> at, part -> 'items');
        CONTINUE WHEN rule IS NULL;
        problem := outbox.part_violation(root, rule, value -> at, place || '/' || at, depth + 1);
        IF problem IS NOT NULL THEN RETURN problem; END IF;
      END LOOP;
    END IF;
    IF part ? 'contains' THEN
      matches := 0;
      FOR at IN 0..jsonb_array_length(value) - 1 LOOP
        IF outbox.part_violation(root, part -> 'contains', value -> at, '', depth + 1) IS NULL THEN matches := matches + 1; END IF;
      END LOOP;
      IF matches < coalesce((part -> 'minContains')::numeric, 1) THEN RETURN place || ': has too few elements that fit (contains, minContains)'; END IF;
      IF matches > (part -> 'maxContains')::numeric THEN RETURN place || ': has too many elements that fit (maxContains)'; END IF;
    END IF;

  ELSIF type = 'object' THEN
    IF part ? 'required' THEN
      SELECT r INTO name FROM jsonb_array_elements_text(part -> 'required') WITH ORDINALITY u(r, no) WHERE NOT value ? r ORDER BY no LIMIT 1;
      IF FOUND THEN RETURN format('%s: must have %s (required)', place, outbox.pointer_name(name)); END IF;
    END IF;
    IF part ? 'properties' THEN
      FOR name, rule IN SELECT p.key, p.value FROM jsonb_each(part -> 'properties') p WHERE value ? p.key LOOP
        problem := outbox.part_violation(root, rule, value -> name, place || '/' || outbox.pointer_name(name), depth + 1);
        IF problem IS NOT NULL THEN RETURN problem; END IF;
      END LOOP;
    END IF;
    IF part ?| '{additionalProperties,patternProperties}' THEN
      FOR name, child IN SELECT v.key, v.value FROM jsonb_each(value) v LOOP
        known := coalesce(part -> 'properties' ? name, false);
        IF part ? 'patternProperties' THEN
          FOR rule IN SELECT p.value FROM jsonb_each(part -> 'patternProperties') p WHERE name ~ outbox.pattern_of(p.key) COLLATE "C" LOOP
            known := true;
            problem := outbox.part_violation(root, rule, child, place || '/' || outbox.pointer_word(name), depth + 1);
            IF problem IS NOT NULL THEN RETURN problem; END IF;
          END LOOP;
        END IF;
        CONTINUE WHEN known OR NOT part ? 'additionalProperties';
        IF part -> 'additionalProperties' = 'false' THEN
          RETURN format('%s/%s: is not allowed (additionalProperties)', place, outbox.pointer_word(name));
        END IF;
        problem := outbox.part_violation(root, part -> 'additionalProperties', child, place || '/' || outbox.pointer_word(name), depth + 1);
        IF problem IS NOT NULL THEN RETURN problem; END IF;
      END LOOP;
    END IF;
    IF part ?| '{minProperties,maxProperties,propertyNames,dependentRequired,dependentSchemas}' THEN
      matches := (SELECT count(*) FROM jsonb_object_keys(value));
      IF matches < (part -> 'minProperties')::numeric THEN RETURN format('%s: must have at least %s names (minProperties)', place, part -> 'minProperties'); END IF;
      IF matches > (part -> 'maxProperties')::numeric THEN RETURN format('%s: must have at most %s names (maxProperties)', place, part -> 'maxProperties'); END IF;
      IF part ? 'propertyNames' THEN
        FOR name IN SELECT k FROM jsonb_object_keys(value) k LOOP
          IF outbox.part_violation(root, part -> 'propertyNames', to_jsonb(name), '', depth + 1) IS NOT NULL THEN
            RETURN format('%s/%s: has a name that is not allowed (propertyNames)', place, outbox.pointer_word(name));
          END IF;
        END LOOP;
      END IF;
      SELECT r INTO name FROM jsonb_each(part -> 'dependentRequired') d, jsonb_array_elements_text(d.value) r WHERE value ? d.key AND NOT value ? r ORDER BY r LIMIT 1;
      IF FOUND THEN RETURN format('%s: must have %s (dependentRequired)', place, outbox.pointer_name(name)); END IF;
      FOR rule IN SELECT d.value FROM jsonb_each(part -> 'dependentSchemas') d WHERE value ? d.key LOOP
        problem := outbox.part_violation(root, rule, value, place, depth + 1);
        IF problem IS NOT NULL THEN RETURN problem; END IF;
      END LOOP;
    END IF;
  END IF;

  IF part ?| '{$ref,allOf,anyOf,oneOf,not,if}' THEN
    IF part ? '$ref' THEN
      problem := outbox.part_violation(root,
        root #> ARRAY(SELECT replace(replace(s, '~1', '/'), '~0', '~') FROM unnest(string_to_array(substr(part ->> '$ref', 3), '/')) WITH ORDINALITY u(s, no) ORDER BY no),
        value, place, depth + 1);
      IF problem IS NOT NULL THEN RETURN problem; END IF;
    END IF;
    FOR at IN 0..coalesce(jsonb_array_length(part -> 'allOf'), 0) - 1 LOOP
      problem := outbox.part_violation(root, part -> 'allOf' -> at, value, place, depth + 1);
      IF problem IS NOT NULL THEN RETURN problem; END IF;
    END LOOP;
    IF part ? 'anyOf' THEN
      known := false;
      FOR at IN 0..jsonb_array_length(part -> 'anyOf') - 1 LOOP
        known := outbox.part_violation(root, part -> 'anyOf' -> at, value, '', depth + 1) IS NULL;
        EXIT WHEN known;
      END LOOP;
      IF NOT known THEN RETURN place || ': fits none of the alternatives (anyOf)'; END IF;
    END IF;
    IF part ? 'oneOf' THEN
      matches := 0;
      FOR at IN 0..jsonb_array_length(part -> 'oneOf') - 1 LOOP
        IF outbox.part_violation(root, part -> 'oneOf' -> at, value, '', depth + 1) IS NULL THEN matches := matches + 1; END IF;
      END LOOP;
      IF matches <> 1 THEN RETURN format('%s: fits %s of the alternatives (oneOf)', place, CASE matches WHEN 0 THEN 'none' ELSE 'more than one' END); END IF;
    END IF;
    IF part ? 'not' THEN
      IF outbox.part_violation(root, part -> 'not', value, '', depth + 1) IS NULL THEN RETURN place || ': fits what it must not be (not)'; END IF;
    END IF;
    IF part ? 'if' THEN
      rule := part -> CASE WHEN outbox.part_violation(root, part -> 'if', value, '', depth + 1) IS NULL THEN 'then' ELSE 'else' END;
      IF rule IS NOT NULL THEN RETURN outbox.part_violation(root, rule, value, place, depth + 1); END IF;
    END IF;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.part_violation(jsonb, jsonb, jsonb, text, int) IS 'Private: what is wrong with a value by a part of the schema root; NULL when it fits.';

CREATE FUNCTION outbox.payload_violation(schema jsonb, payload jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  problem text := outbox.part_violation(schema, schema, payload, '', 0);
BEGIN
  RETURN CASE WHEN problem LIKE ': %' THEN substr(problem, 3) ELSE problem END;
END $$;
COMMENT ON FUNCTION outbox.payload_violation(jsonb, jsonb) IS
'Private: where a payload does not fit a published schema, and the keyword that says so, such as "/items/0/price: must be a number (type)"; never a value. Without a pointer: the payload itself. NULL when it fits.';

CREATE FUNCTION outbox.check_schema(door text, kind text, schema jsonb, payload json) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  problem text := outbox.payload_violation(schema, payload::jsonb);
BEGIN
  IF problem IS NOT NULL THEN
    PERFORM outbox.refuse('22H18', door, 'payload', 'does not fit the schema of its kind: ' || problem,
      format('see schema.json of kind %s, and compare: hapax template check; an operator may turn it off: outbox.enforce_schema()', kind));
  END IF;
END $$;
COMMENT ON FUNCTION outbox.check_schema(text, text, jsonb, json) IS 'Private: refuses a payload that does not fit the schema of its kind.';

-- Every part of a schema that is one itself, with the pointer by which $ref would name it. Parts that are about the same value
-- as the one around them are in place.
CREATE FUNCTION outbox.schema_parts(schema jsonb) RETURNS TABLE (pointer text, part jsonb, around text, in_place boolean) LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  WITH RECURSIVE p(pointer, part, around, in_place) AS (
    SELECT '#', schema_parts.schema, NULL::text, false
    UNION ALL
    SELECT format('%s/%s%s', p.pointer, k.key, '/' || c.name), c.value, p.pointer, k.key = ANY ('{allOf,anyOf,oneOf,not,if,then,else,dependentSchemas}')
    FROM p
    CROSS JOIN LATERAL jsonb_each(CASE jsonb_typeof(p.part) WHEN 'object' THEN p.part ELSE '{}' END) k
    CROSS JOIN LATERAL (
      SELECT outbox.pointer_name(e.key) AS name, e.value FROM jsonb_each(CASE WHEN jsonb_typeof(k.value) = 'object' THEN k.value ELSE '{}' END) e
      WHERE k.key = ANY ('{properties,patternProperties,$defs,definitions,dependentSchemas}')
      UNION ALL
      SELECT (e.no - 1)::text, e.value FROM jsonb_array_elements(CASE WHEN jsonb_typeof(k.value) = 'array' THEN k.value ELSE '[]' END) WITH ORDINALITY e(value, no)
      WHERE k.key = ANY ('{allOf,anyOf,oneOf,prefixItems}')
      UNION ALL
      SELECT NULL, k.value WHERE k.key = ANY ('{items,additionalProperties,not,if,then,else,contains,propertyNames}')) c)
  SELECT p.pointer, p.part, p.around, p.in_place FROM p;
END;
COMMENT ON FUNCTION outbox.schema_parts(jsonb) IS 'Private: the parts of a JSON Schema that are schemas, and the pointers to them.';

CREATE FUNCTION outbox.keyword_problem(keyword text, value jsonb, is_root boolean) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  type text := jsonb_typeof(value);
BEGIN
  RETURN CASE
    WHEN keyword = ANY ('{title,description,default,examples,$comment,deprecated,readOnly,writeOnly,format,const,contentEncoding,contentMediaType,contentSchema}') THEN NULL
    WHEN keyword = '$schema' THEN
      CASE WHEN NOT is_root OR value #>> '{}' !~ '^https?://json-schema\.org/draft/2020-12/schema#?$' THEN 'is not draft 2020-12' END
    WHEN keyword = '$id' THEN CASE WHEN NOT is_root THEN 'is known at the top only' WHEN type <> 'string' THEN 'must be a string' END
    WHEN keyword = 'type' THEN
      CASE WHEN type = 'string' AND '["object","array","string","number","integer","boolean","null"]' @> value
             OR type = 'array' AND value <> '[]' AND '["object","array","string","number","integer","boolean","null"]' @> value THEN NULL ELSE 'names no type' END
    WHEN keyword = 'enum' THEN CASE WHEN type <> 'array' THEN 'must be an array' END
    WHEN keyword = 'required' THEN CASE WHEN NOT outbox.are_strings(value) THEN 'must be an array of strings' END
    WHEN keyword = 'dependentRequired' THEN
      CASE WHEN type <> 'object' THEN 'must be an object' WHEN EXISTS (SELECT FROM jsonb_each(value) e WHERE NOT outbox.are_strings(e.value)) THEN 'must have arrays of strings' END
    WHEN keyword = ANY ('{properties,$defs,definitions,dependentSchemas}') THEN CASE WHEN type <> 'object' THEN 'must be an object' END
    WHEN keyword = 'patternProperties' THEN
      CASE WHEN type <> 'object' THEN 'must be an object' ELSE (SELECT min(outbox.pattern_problem(p)) FROM jsonb_object_keys(value) p) END
    WHEN keyword = 'pattern' THEN CASE WHEN type <> 'string' THEN 'must be a string' ELSE outbox.pattern_problem(value #>> '{}') END
    WHEN keyword = ANY ('{allOf,anyOf,oneOf,prefixItems}') THEN CASE WHEN type <> 'array' OR value = '[]' THEN 'must be an array of schemas' END
    WHEN keyword = ANY ('{items,additionalProperties,not,if,then,else,contains,propertyNames}') THEN NULL -- a part of its own
    WHEN keyword = ANY ('{minItems,maxItems,minLength,maxLength,minProperties,maxProperties,minContains,maxContains}') THEN
      CASE WHEN type <> 'number' THEN 'must be a whole number' WHEN value::numeric < 0 OR trunc(value::numeric) <> value::numeric THEN 'must be a whole number' END
    WHEN keyword = ANY ('{minimum,maximum,exclusiveMinimum,exclusiveMaximum}') THEN CASE WHEN type <> 'number' THEN 'must be a number' END
    WHEN keyword = 'multipleOf' THEN CASE WHEN type <> 'number' THEN 'must be a number' WHEN value::numeric <= 0 THEN 'must be more than 0' END
    WHEN keyword = 'uniqueItems' THEN CASE WHEN type <> 'boolean' THEN 'must be true or false' END
    WHEN keyword = '$ref' THEN CASE WHEN type <> 'string' THEN 'must be a string' WHEN value #>> '{}' !~ '^#(?:/|$)' THEN 'is outside of this document' END
    ELSE 'is a keyword that is not known here' END;
END $$;
COMMENT ON FUNCTION outbox.keyword_problem(text, jsonb, boolean) IS 'Private: why outbox.payload_violation() could not check by this keyword; NULL when it can.';

CREATE FUNCTION outbox.are_strings(value jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN CASE jsonb_typeof(value) WHEN 'array' THEN NOT EXISTS (SELECT FROM jsonb_array_elements(value) e WHERE jsonb_typeof(e) <> 'string') ELSE false END;
COMMENT ON FUNCTION outbox.are_strings(jsonb) IS 'Private: whether this is an array of strings.';

CREATE FUNCTION outbox.pattern_problem(pattern text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  translated text := CASE WHEN length(pattern) <= 1000 THEN outbox.pattern_of(pattern) END;
BEGIN
  IF translated IS NULL THEN RETURN 'has a pattern that Postgres reads otherwise (look-around, back reference, \p, named group)'; END IF;
  PERFORM '' ~ translated COLLATE "C";
  RETURN NULL;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  RETURN 'has a pattern that Postgres cannot read (a bound above 255, a class with a range that is none)';
END $$;
COMMENT ON FUNCTION outbox.pattern_problem(text) IS 'Private: why a pattern cannot be checked; NULL when it can.';

-- What recursion is estimated to cost would have these few rows compiled, for seconds.
CREATE FUNCTION outbox.schema_problem(schema jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE SET jit = off AS $$
DECLARE
  problem text;
BEGIN
  IF octet_length(schema::text) > 1000000 THEN RETURN 'is longer than 1 MB'; END IF;
  SELECT format('%s: is not a schema (an object, true or false)', p.pointer) INTO problem
  FROM outbox.schema_parts(schema) p WHERE jsonb_typeof(p.part) NOT IN ('object', 'boolean') ORDER BY p.pointer LIMIT 1;
  IF FOUND THEN RETURN problem; END IF;
  SELECT format('%s/%s: %s', p.pointer, outbox.pointer_name(k.key), outbox.keyword_problem(k.key, k.value, p.around IS NULL)) INTO problem
  FROM outbox.schema_parts(schema) p, jsonb_each(p.part) k
  WHERE jsonb_typeof(p.part) = 'object' AND outbox.keyword_problem(k.key, k.value, p.around IS NULL) IS NOT NULL ORDER BY p.pointer, k.key LIMIT 1;
  IF FOUND THEN RETURN problem; END IF;
  SELECT format('%s/$ref: refers to no schema of this document', p.pointer) INTO problem
  FROM outbox.schema_parts(schema) p WHERE NOT EXISTS (SELECT FROM outbox.schema_parts(schema) d WHERE d.pointer = p.part ->> '$ref') AND p.part ? '$ref' ORDER BY 1 LIMIT 1;
  IF FOUND THEN RETURN problem; END IF;
  WITH RECURSIVE parts AS MATERIALIZED (SELECT * FROM outbox.schema_parts(schema)),
  step(source, target) AS (
    SELECT p.around, p.pointer FROM parts p WHERE p.in_place
    UNION ALL SELECT p.pointer, p.part ->> '$ref' FROM parts p WHERE p.part ? '$ref'),
  way(source, target) AS (
    SELECT s.source, s.target FROM step s
    UNION SELECT w.source, s.target FROM way w JOIN step s ON s.source = w.target)
  SELECT format('%s: refers to itself for the same value, without an end', w.source) INTO problem FROM way w WHERE w.source = w.target ORDER BY w.source LIMIT 1;
  RETURN problem;
END $$;
COMMENT ON FUNCTION outbox.schema_problem(jsonb) IS 'Private: why payloads cannot be checked by a JSON Schema, with the pointer to the place; NULL when they can.';

CREATE FUNCTION outbox.publish_schema(kind text, schema json, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
#variable_conflict use_variable
DECLARE
  document jsonb;
  digest text;
  problem text;
  known text;
BEGIN
  IF kind IS NULL OR length(kind) > 63 OR kind !~ '^[a-z][a-z0-9_.-]*$' THEN
    PERFORM outbox.refuse('22H01', 'outbox.publish_schema', 'kind', CASE WHEN kind IS NULL THEN 'is missing' ELSE 'is malformed' END,
      'a-z, 0-9, _ . -, begins with a letter, up to 63 characters, such as order_confirmed');
  END IF;
  BEGIN
    document := schema::jsonb;
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    problem := 'has a value that cannot be stored (\u0000, half a surrogate pair, a number out of range)';
  END;
  IF problem IS NULL THEN problem := CASE WHEN document IS NULL THEN 'is missing' ELSE outbox.schema_problem(document) END; END IF;
  IF problem IS NOT NULL THEN
    PERFORM outbox.refuse('22H57', 'outbox.publish_schema', 'schema', problem,
      'the database checks by the keywords of JSON Schema 2020-12, but for $anchor, $dynamicRef and unevaluated*, with $ref into the same document; the relay checks by all of it at render time');
  END IF;
  digest := encode(sha256(convert_to(document::text, 'UTF8')), 'hex');
  -- Two who publish at the same time: the second waits, and compares with what the first wrote.
  INSERT INTO outbox.payload_schema AS s (kind, schema, sha256) VALUES (kind, document, digest)
  ON CONFLICT ON CONSTRAINT payload_schema_pkey DO NOTHING;
  IF NOT FOUND THEN
    SELECT s.sha256 INTO known FROM outbox.payload_schema s WHERE s.kind = publish_schema.kind FOR UPDATE;
    IF known = digest THEN RETURN 'unchanged'; END IF;
    UPDATE outbox.payload_schema s SET schema = document, sha256 = digest, published_at = clock_timestamp(), published_by = session_user WHERE s.kind = publish_schema.kind;
  END IF;
  PERFORM outbox.audit_entry('publish schema', NULL, NULL, NULL, reason, format('%s: %s', kind, coalesce('schema ' || left(known, 12), 'no schema')), format('%s: schema %s', kind, left(digest, 12)));
  RETURN 'published';
END $$;
COMMENT ON FUNCTION outbox.publish_schema(text, json, text) IS
'Publishes the JSON Schema (draft 2020-12) of a kind''s payloads; hapax template publish does it for schema.json of each kind. Returns published, or unchanged. Nothing is checked by it before outbox.enforce_schema(); if it is enforced already, the new one is from now on. Refused (22H57) when the database could not check by it; format is a remark only. For operators; kept in outbox.audit. Example:
  SELECT outbox.publish_schema(''order_confirmed'', ''{"type": "object", "required": ["order_id"], "properties": {"order_id": {"type": "integer"}}}'');';

CREATE FUNCTION outbox.enforce_schema(kind text, enforced boolean, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  known outbox.payload_schema;
BEGIN
  PERFORM outbox.require_reason('enforce_schema', reason);
  IF enforced IS NULL THEN PERFORM outbox.refuse('22H58', 'outbox.enforce_schema', 'enforced', 'is missing', 'true refuses payloads that do not fit, false does not'); END IF;
  SELECT * INTO known FROM outbox.payload_schema s WHERE s.kind = enforce_schema.kind FOR UPDATE;
  IF NOT FOUND THEN PERFORM outbox.refuse('22H58', 'outbox.enforce_schema', 'kind', 'has no published schema', 'publish it first: hapax template publish; SELECT * FROM outbox.payload_schemas'); END IF;
  IF known.enforced = enforced THEN RETURN false; END IF;
  UPDATE outbox.payload_schema s SET enforced = enforce_schema.enforced WHERE s.kind = enforce_schema.kind;
  PERFORM outbox.audit_entry('enforce schema', NULL, NULL, NULL, reason, format('%s: %s', kind, CASE WHEN known.enforced THEN 'enforced' ELSE 'not enforced' END),
    format('%s: %s', kind, CASE WHEN enforced THEN 'enforced' ELSE 'not enforced' END));
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.enforce_schema(text, boolean, text) IS
'Whether enqueue(), enqueue_many() and outbox.notification refuse (22H18) payloads of a kind that do not fit its published schema. What is enqueued already stays. True when that is a change. For operators; the reason is kept in outbox.audit. Example:
  SELECT outbox.enforce_schema(''order_confirmed'', true, ''all producers are on version 3'');';

CREATE FUNCTION outbox.withdraw_schema(kind text, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  known outbox.payload_schema;
BEGIN
  PERFORM outbox.require_reason('withdraw_schema', reason);
  DELETE FROM outbox.payload_schema s WHERE s.kind = withdraw_schema.kind RETURNING s.* INTO known;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM outbox.audit_entry('withdraw schema', NULL, NULL, NULL, reason,
    format('%s: schema %s, %s', kind, left(known.sha256, 12), CASE WHEN known.enforced THEN 'enforced' ELSE 'not enforced' END), format('%s: no schema', kind));
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.withdraw_schema(text, text) IS
'Removes the published schema of a kind: its payloads are not checked when they are enqueued. True when there was one. For operators; the reason is kept in outbox.audit. Example:
  SELECT outbox.withdraw_schema(''order_confirmed'', ''the kind is no more'');';

-- The doors, as 0021 and 0024 made them, but for the look-up. It is part of a statement which there is anyway, and only for
-- payloads; enqueue_many() looks once whether anything is enforced at all.
DO $migration$
DECLARE
  door record;
  change text[];
  text text;
BEGIN
  FOR door IN SELECT p.oid, p.proname AS name FROM pg_proc p WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname IN ('enqueue', 'put', 'put_many') ORDER BY p.oid LOOP
    text := pg_get_functiondef(door.oid);
    FOREACH change SLICE 1 IN ARRAY CASE door.name
      WHEN 'put_many' THEN ARRAY[
        ARRAY['DECLARE', $$DECLARE
  enforcing boolean := EXISTS (SELECT FROM outbox.payload_schema s WHERE s.enforced);$$],
        ARRAY['    at := clock_timestamp();
    RETURN QUERY', $$    IF enforcing THEN
      PERFORM outbox.check_schema(format('outbox.enqueue_many: element %s', u.no), u.kind, s.schema, u.payload)
      FROM unnest(batch) WITH ORDINALITY AS u(id, kind, recipients, payload, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc, headers, attachments,
        not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate, no)
      JOIN outbox.payload_schema s ON s.kind = u.kind AND s.enforced
      WHERE u.payload IS NOT NULL;
    END IF;
    at := clock_timestamp();
    RETURN QUERY$$],
        ARRAY['    n.id := outbox.uuid_v7();', $$    IF enforcing AND n.payload IS NOT NULL THEN
      PERFORM outbox.check_schema(format('outbox.enqueue_many: element %s', no), n.kind, s.schema, n.payload) FROM outbox.payload_schema s WHERE s.kind = n.kind AND s.enforced;
    END IF;
    n.id := outbox.uuid_v7();$$]]
      ELSE ARRAY[
        ARRAY['DECLARE', 'DECLARE
  enforced jsonb;'],
        ARRAY['PERFORM outbox.check_payload(door, @document);', $$
      SELECT (SELECT s.schema FROM outbox.payload_schema s WHERE s.kind = @kind AND s.enforced) INTO enforced WHERE outbox.check_payload(door, @document) IS NOT NULL;
   $$],
        ARRAY['    IF fine THEN', '    IF fine THEN
      IF enforced IS NOT NULL THEN PERFORM outbox.check_schema(door, @kind, enforced, @document); END IF;'],
        -- Only outbox.put() has the long way, too.
        ARRAY[CASE door.name WHEN 'put' THEN '  n := outbox.checked(door, n);' ELSE 'DECLARE' END, CASE door.name WHEN 'put' THEN $$  n := outbox.checked(door, n);
  IF n.payload IS NOT NULL THEN
    PERFORM outbox.check_schema(door, n.kind, s.schema, n.payload) FROM outbox.payload_schema s WHERE s.kind = n.kind AND s.enforced;
  END IF;$$ ELSE 'DECLARE' END]]
      END
    LOOP
      change := CASE door.name WHEN 'put' THEN replace(replace(change::text, '@document', 'n.payload'), '@', 'n.')::text[]
        ELSE replace(replace(change::text, '@document', 'document'), '@', '')::text[] END;
      IF position(change[1] IN text) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('outbox.%s is not as an earlier migration made it', door.name);
      END IF;
      text := overlay(text PLACING change[2] FROM position(change[1] IN text) FOR length(change[1]));
    END LOOP;
    EXECUTE text;
  END LOOP;
END $migration$;

COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS
'Private: raises what a producer did wrong. The argument is named in the message and in the COLUMN field, what to do is in HINT; no value is ever repeated. SQLSTATEs: 22H01 kind; 22H02 number and shape of recipients; 22H03 an address; 22H04 forms of content; 22H05 payload; 22H06 subject; 22H07 headers; 22H08 attachments; 22H09 raw_message; 22H10 size of the bodies; 22H11 not_before, expires_at; 22H12 priority, on_doubt; 22H13 dedup_key, dedup_ttl, ordering_key; 22H14 route, tenant, locale; 22H15 traceparent, tracestate; 22H16 an id from the client; 22H17 the document given to enqueue_many; 22H18 a payload that does not fit the schema of its kind; 23H01 dedup_key used for other content; 23H02 dedup_key cannot be released. Deciding: 22H50 a reason is missing; 22H51 no such delivery; 22H52 a verdict that is none; 22H53 token is required; 22H54 too early for this verdict; 22H55 nothing says which doubts; 22H56 has not ended, or is suppressed; 22H57 a schema that the database cannot check by; 22H58 no schema to enforce. Testing: 22H60 an argument of an assertion; 22H61 not enqueued in this transaction; 22H62 rendered by the relay; P0004 an assertion of outbox_test does not hold. Others: 40001 run the transaction again; HX001 not the database the relay was armed for.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_operator', 'EXECUTE', '{publish_schema,enforce_schema,withdraw_schema}'),
  ('outbox_operator outbox_viewer', 'SELECT', '{payload_schemas}');

SELECT outbox.grant_roles();
