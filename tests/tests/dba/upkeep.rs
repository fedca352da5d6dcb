//! Upkeep that somebody stands in the way of: it is said and postponed, and nothing else waits for it.

use std::time::Duration;

use hapax_testkit::eventually;
use hapax_tests::stage::{PATIENCE, Stage};

/// Two weeks of long ago; a report looks at the older one.
const A_REPORT: &str = "DO $$ DECLARE week timestamp := date_trunc('week', now() AT TIME ZONE 'UTC' - interval '70 days'); BEGIN
    FOR i IN 1 .. 2 LOOP
      EXECUTE format('CREATE TABLE outbox.message_%s PARTITION OF outbox.message FOR VALUES FROM (%L) TO (%L)', to_char(week, 'YYYYMMDD'),
                     outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
      IF i = 1 THEN EXECUTE format('CREATE VIEW public.report AS SELECT kind, count(*) FROM outbox.message_%s GROUP BY 1', to_char(week, 'YYYYMMDD')); END IF;
      week := week + interval '7 days';
    END LOOP; END $$";

/// Everybody's DDL is refused, and a week is missing.
const A_FREEZE: &str = "DO $$ DECLARE week text := to_char(date_trunc('week', now() AT TIME ZONE 'UTC' + interval '14 days'), 'YYYYMMDD'); BEGIN
    EXECUTE format('DROP TABLE outbox.message_%s', week); END $$;
  CREATE FUNCTION public.freeze() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no DDL before the audit is over'; END $$;
  CREATE EVENT TRIGGER audit ON ddl_command_start EXECUTE FUNCTION public.freeze();
  CREATE EVENT TRIGGER audit_drops ON sql_drop EXECUTE FUNCTION public.freeze()";

const POSTPONED: &str =
    "SELECT coalesce(string_agg(what || ': ' || why, '; ' ORDER BY what), '') FROM outbox.upkeep_postponed";

/// A relay dies with something on the wire, and another one comes.
async fn a_death_is_seen(stage: &Stage) {
    let settings = stage.settings().set("retention.records", "30d");
    let hold = stage.server.hold_final_reply();
    let mut relay = settings.run().await;
    stage.enqueue_one("a@example.org", ", ordering_key => 'k'").await;
    hold.wait_for(1).await;
    relay.sigkill();
    relay.wait_exit(PATIENCE).await;
    hold.release();
    let mut relay = settings.run().await;
    eventually(PATIENCE, async || {
        let doubts = stage.count("SELECT count(*) FROM outbox.in_doubt WHERE marked_by = 'reaper'").await;
        (doubts == 1).then_some(()).ok_or(doubts)
    })
    .await;
    // What else there is to do for everybody is done, too.
    let sql = "INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at) VALUES ('', 'old', '', outbox.uuid_v7(), now() - interval '1 day')";
    stage.sql.execute(sql, &[]).await.expect("a key that has expired");
    stage.sql.execute("SELECT * FROM outbox.maintain()", &[]).await.expect("maintains what it can");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.dedup_key WHERE key = 'old'").await, 0);
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
}

async fn doctor(stage: &Stage) -> String {
    stage.settings().set("retention.records", "30d").command(["doctor"]).await.1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_on_an_old_week_postpones_that_week_and_a_dead_relay_is_seen_all_the_same() {
    let stage = Stage::set().await;
    stage.sql.batch_execute(A_REPORT).await.expect("a report");
    a_death_is_seen(&stage).await;
    let postponed = stage.text(POSTPONED, &[]).await.unwrap_or_default();
    assert!(
        postponed.starts_with("message_") && postponed.contains("(view public.report depends on table"),
        "{postponed}"
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.upkeep_postponed").await, 1, "that week alone: {postponed}");
    let weeks = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'outbox.message'::regclass
                   AND c.relname < 'message_' || to_char(now() - interval '50 days', 'YYYYMMDD')";
    assert_eq!(stage.count(weeks).await, 1, "the other one is gone");
    stage
        .sql
        .batch_execute("DROP VIEW public.report; SELECT * FROM outbox.maintain(keep => '30 days')")
        .await
        .expect("it may");
    assert_eq!(stage.count(weeks).await, 0);
    assert_eq!(stage.text(POSTPONED, &[]).await.unwrap_or_default(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_of_ddl_postpones_the_weeks_to_come_and_a_dead_relay_is_seen_all_the_same() {
    let stage = Stage::set().await;
    stage.sql.batch_execute(A_FREEZE).await.expect("an audit");
    a_death_is_seen(&stage).await;
    let postponed = stage.text(POSTPONED, &[]).await.unwrap_or_default();
    assert!(postponed.contains("no DDL before the audit is over"), "{postponed}");
    // It is a matter of days, and then doctor says it.
    stage
        .sql
        .execute("UPDATE outbox.upkeep_postponed SET since = since - interval '3 days'", &[])
        .await
        .expect("time goes by");
    let said = doctor(&stage).await;
    assert!(said.contains("no DDL before the audit is over"), "{said}");
    stage
        .sql
        .batch_execute("ALTER EVENT TRIGGER audit DISABLE; ALTER EVENT TRIGGER audit_drops DISABLE")
        .await
        .expect("it is over");
    stage.sql.batch_execute("SELECT * FROM outbox.maintain()").await.expect("it goes on");
    assert_eq!(stage.text(POSTPONED, &[]).await.unwrap_or_default(), "");
    let week = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.message'::regclass AND
                  inhrelid::regclass::text = 'outbox.message_' || to_char(date_trunc('week', now() AT TIME ZONE 'UTC' + interval '14 days'), 'YYYYMMDD')";
    assert_eq!(stage.count(week).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_that_cannot_be_called_at_all_is_said_and_a_dead_relay_is_seen_all_the_same() {
    let stage = Stage::set().await;
    let broken = "CREATE OR REPLACE FUNCTION outbox.note_postponed(p_what text, p_why text, p_word text, OUT action text, OUT detail text)
        LANGUAGE plpgsql VOLATILE AS $$ BEGIN RAISE EXCEPTION 'somebody broke it'; END $$";
    stage.sql.batch_execute(&format!("{A_REPORT}; {broken}")).await.expect("it may");
    let hold = stage.server.hold_final_reply();
    let settings = stage.settings().set("retention.records", "30d");
    let mut relay = settings.run().await;
    stage.enqueue_one("a@example.org", "").await;
    hold.wait_for(1).await;
    relay.sigkill();
    relay.wait_exit(PATIENCE).await;
    hold.release();
    let relay = settings.run().await;
    relay
        .wait_for_line(|line| line.contains("could not maintain the outbox") && line.contains("somebody broke it"))
        .await;
    eventually(Duration::from_secs(90), async || {
        let doubts = stage.count("SELECT count(*) FROM outbox.in_doubt WHERE marked_by = 'reaper'").await;
        (doubts == 1).then_some(()).ok_or(doubts)
    })
    .await;
}
