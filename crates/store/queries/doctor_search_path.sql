-- outbox.doctor_search_path: where names of Postgres are looked up for this user, and in which of these schemas anybody may make
-- something of that name. Asked first, and names nothing that another schema could have: no operator is in it.
SELECT /* outbox.doctor_search_path */ current_user::pg_catalog.text AS role, pg_catalog.current_database()::pg_catalog.text AS database,
       pg_catalog.current_schemas(true)::pg_catalog.text[] AS schemas,
       ARRAY(SELECT s.name::pg_catalog.text FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) AS s (name)
             WHERE pg_catalog.has_schema_privilege('public'::pg_catalog.name, s.name::pg_catalog.text, 'CREATE'::pg_catalog.text)) AS open
