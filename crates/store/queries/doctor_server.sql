-- outbox.doctor_server: which server this is and how it is set, as any user may see it. Read before anything else, also
-- where there is no outbox.
SELECT /* outbox.doctor_server */ current_setting('server_version_num')::int AS version_num, current_setting('server_version') AS version, pg_is_in_recovery() AS in_recovery,
       coalesce(inet_server_port(), 0) AS port, current_database()::text AS database,
       coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false) AS ssl,
       coalesce((SELECT s.version FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), '') AS ssl_version,
       extract(epoch FROM clock_timestamp())::float8 AS now_s,
       current_setting('fsync') = 'on' AS fsync, current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('autovacuum') = 'on' AS autovacuum, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       (SELECT count(*) FROM pg_stat_replication)::int AS standbys,
       current_setting('max_connections')::int AS connections_max,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int AS connections_usable,
       (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend' AND a.application_name <> 'hapax doctor')::int AS connections_used,
       (SELECT r.rolconnlimit FROM pg_roles r WHERE r.rolname = current_user) AS role_limit,
       (SELECT d.datconnlimit FROM pg_database d WHERE d.datname = current_database()) AS database_limit,
       (SELECT s.setting::int8 FROM pg_settings s WHERE s.name = 'statement_timeout') AS statement_timeout_ms,
       (SELECT s.setting::int8 FROM pg_settings s WHERE s.name = 'lock_timeout') AS lock_timeout_ms,
       (SELECT s.setting::int8 FROM pg_settings s WHERE s.name = 'idle_in_transaction_session_timeout') AS idle_in_transaction_ms,
       coalesce((SELECT s.setting::int8 FROM pg_settings s WHERE s.name = 'transaction_timeout'), 0) AS transaction_timeout_ms,
       (SELECT s.setting::int8 FROM pg_settings s WHERE s.name = 'idle_session_timeout') AS idle_session_ms,
       current_setting('default_transaction_read_only') = 'on' AS read_only,
       to_regnamespace('outbox') IS NOT NULL AS has_schema
