-- Where the migrator keeps its books. Run before every migration, so each statement tolerates being run again.
CREATE SCHEMA IF NOT EXISTS outbox;
CREATE TABLE IF NOT EXISTS outbox.migration (
  version int PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  breaking boolean NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  applied_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE outbox.migration IS 'Which migrations have been applied, with the checksum of the file that was.';
COMMENT ON COLUMN outbox.migration.breaking IS 'Whether older relays must not run on this schema.';
