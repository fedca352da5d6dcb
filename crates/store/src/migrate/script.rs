//! Migrations as a script for plain psql, and for other tools: each step in a transaction of its own, with the books kept.
//!
//! A step that is applied already is skipped, one whose predecessor is missing is refused, and one that failed changed
//! nothing: so the remedy for a script that stopped is to run it again, and no harm is done by a tool that goes on after
//! an error.

use std::fmt::Write as _;

use super::{LOCK, MIGRATIONS, Migration, bookkeeping, bootstrap};

/// Before anything else in the transaction of a migration, whoever applies it. Neither the advisory lock nor the books are
/// waited for longer than a table is; and what a database or a role sets for its sessions shall not decide which functions
/// a migration calls, how its strings are read, or what style of code is an error.
pub(super) const SETTINGS: &str = "SET LOCAL lock_timeout = '5s';
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;
SET LOCAL plpgsql.extra_errors = 'none';
";

/// The quotes around a file; no file has them inside.
const QUOTE: &str = "$hapax_migration$";

/// The SQL of the migrations after `from` up to and including `to`.
#[must_use]
pub fn script(from: i32, to: i32) -> String {
    let mut script = String::from(
        "-- Made by `hapax migrate sql`. Apply with: psql -X -v ON_ERROR_STOP=1 -f FILE
--
-- As the owner of schema outbox; the first time as whoever shall own it, with CREATE on this database. Each migration is
-- a transaction of its own (turn off the one that your tool puts around a file), and waits for no lock longer than five
-- seconds. What is applied already is skipped: if it stops, mend what it names and run all of it again.
",
    );
    let mut before: Option<&Migration> = None;
    for migration in MIGRATIONS {
        if migration.version > from && migration.version <= to {
            step(&mut script, migration, before);
        }
        before = Some(migration);
    }
    script
}

/// One migration. A file is executed as a string, because nothing else in SQL is executed on a condition.
fn step(script: &mut String, migration: &Migration, before: Option<&Migration>) {
    let Migration { version, name, sql } = migration;
    let checksum = migration.checksum();
    let _ = write!(
        script,
        "
-- {name}
BEGIN ISOLATION LEVEL READ COMMITTED;
{SETTINGS}SELECT pg_advisory_xact_lock({LOCK});
{bootstrap}
DO $hapax_step$
DECLARE
  why text;
  advice text;
BEGIN
  IF EXISTS (SELECT FROM outbox.migration WHERE version = {version} AND checksum <> '{checksum}') THEN
    RAISE EXCEPTION 'outbox: {name} was changed after it was applied'
      USING HINT = 'this script is of another release than what is applied here: hapax migrate verify compares them';
  ELSIF EXISTS (SELECT FROM outbox.migration WHERE version = {version}) THEN
    RAISE NOTICE 'outbox: {name} is applied already';
    RETURN;
  END IF;
",
        bootstrap = bootstrap(),
    );
    if let Some(Migration { version: before, name: missing, .. }) = before {
        let _ = write!(
            script,
            "  IF NOT EXISTS (SELECT FROM outbox.migration WHERE version = {before}) THEN
    RAISE EXCEPTION 'outbox: {name} was not applied: it comes after {missing}, which is not applied here'
      USING HINT = format('apply what hapax migrate sql --from %s prints',
        (SELECT coalesce(max(version), 0) FROM outbox.migration WHERE version < {version}));
  END IF;
"
        );
    }
    let _ = write!(
        script,
        "  BEGIN
    EXECUTE {QUOTE}
{sql}{QUOTE};
    {books}
  EXCEPTION
    WHEN lock_not_available THEN
      RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
        MESSAGE = 'outbox: {name} was not applied: somebody else holds a lock for too long',
        HINT = 'nothing was changed by it; run this script again, what is applied is skipped. The oldest transactions are'
          ' SELECT pid, application_name, xact_start FROM pg_stat_activity WHERE datname = current_database() ORDER BY 3';
    WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS why = MESSAGE_TEXT, advice = PG_EXCEPTION_HINT;
      RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = 'outbox: {name} was not applied: ' || why,
        HINT = concat_ws('; ', nullif(advice, ''),
          'nothing was changed by it; mend that and run this script again, what is applied is skipped');
  END;
END $hapax_step$;
COMMIT;
",
        books = bookkeeping(migration),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_ends_the_quotes_around_it() {
        for migration in MIGRATIONS {
            assert!(!migration.sql.contains("$hapax_"), "{}", migration.name);
        }
    }

    #[test]
    fn nothing_is_waited_for_without_a_limit() {
        let all = script(0, i32::MAX);
        let steps: Vec<&str> = all.split("\nBEGIN ISOLATION LEVEL READ COMMITTED;\n").skip(1).collect();
        assert_eq!(steps.len(), MIGRATIONS.len());
        assert!(steps.iter().all(|step| step.starts_with("SET LOCAL lock_timeout = '5s';\n")));
    }

    #[test]
    fn a_range_begins_after_its_first_number_and_ends_with_its_last() {
        let some = script(3, 5);
        let names: Vec<&str> = some.lines().filter(|line| line.starts_with("-- 0")).collect();
        assert_eq!(names, ["-- 0004_validate.sql", "-- 0005_enqueue.sql"]);
    }
}
