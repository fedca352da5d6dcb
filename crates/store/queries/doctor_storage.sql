-- outbox.doctor_storage: tables that a crash of the server would empty (UNLOGGED), partitioned tables without their default partition, and what puts each right.
SELECT /* outbox.doctor_storage */ 'unlogged' AS fault, c.relname::text AS name, format('ALTER TABLE outbox.%I SET LOGGED;', c.relname) AS remedy
FROM pg_class c WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'u'
UNION ALL
SELECT 'default', c.relname::text, CASE WHEN to_regclass(format('outbox.%I', c.relname || '_default')) IS NULL
    THEN format('CREATE TABLE outbox.%I PARTITION OF outbox.%I DEFAULT; SELECT outbox.grant_roles();', c.relname || '_default', c.relname)
    ELSE format('ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I DEFAULT;', c.relname, c.relname || '_default') END
FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid WHERE c.relnamespace = 'outbox'::regnamespace AND p.partdefid = 0
ORDER BY 1, 2
