//! maintain: partitions ahead, old ones dropped, and never in anybody's way.

use std::time::{Duration, Instant};

use crate::common::{Stage, accepted};

const PARTITIONS: &str = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('outbox.message'::regclass, 'outbox.attempt'::regclass) AND c.relname !~ 'default$'";

async fn actions(stage: &Stage, call: &str) -> Vec<(String, String)> {
    let rows = stage.sql.query(&format!("SELECT action, detail FROM {call}"), &[]).await.expect("maintains");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn partitions_are_made_weeks_ahead_once() {
    let stage = Stage::set().await;
    let before = stage.count(PARTITIONS).await;
    assert!(before >= 10, "five weeks of two tables: {before}");
    assert!(stage.store.maintain(None).await.expect("maintains").is_empty(), "nothing to do");
    let made = actions(&stage, "outbox.maintain('70 days')").await;
    assert!(made.iter().all(|(action, _)| action == "created") && made.len() >= 10, "{made:?}");
    assert_eq!(stage.count(PARTITIONS).await, before + i64::try_from(made.len()).expect("few"));
    stage.enqueue(1).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message_default").await, 0);
}

/// Weeks are counted in UTC: a session's daylight saving must not shift their borders, or the next call meets an overlap
/// and fails for good.
#[tokio::test]
async fn the_time_zone_of_the_session_does_not_move_the_borders_of_weeks() {
    let stage = Stage::set().await;
    for zone in ["Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati", "UTC"] {
        stage.run(&format!("SET timezone = '{zone}'")).await;
        actions(&stage, "outbox.maintain('400 days')").await;
    }
    stage.run("SET timezone = 'UTC'").await;
    let crooked = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('outbox.message'::regclass, 'outbox.attempt'::regclass) AND c.relname !~ 'default$'
          AND (extract(isodow FROM to_date(right(c.relname, 8), 'YYYYMMDD')) <> 1
               OR position(outbox.uuid_floor(to_date(right(c.relname, 8), 'YYYYMMDD')::timestamptz)::text IN pg_get_expr(c.relpartbound, c.oid)) = 0)";
    assert_eq!(stage.count(crooked).await, 0);
    assert!(stage.count(PARTITIONS).await >= 114);
}

#[tokio::test]
async fn of_two_calls_at_once_one_does_the_work() {
    let stage = Stage::set().await;
    let (other, _driver) = stage.session().await;
    other.batch_execute("BEGIN; SELECT outbox.maintain('70 days')").await.expect("maintains");
    assert_eq!(
        stage.store.maintain(None).await.expect("maintains"),
        [("skipped".to_owned(), "another session is at it".to_owned())]
    );
    other.batch_execute("ROLLBACK").await.expect("rolls back");
}

#[tokio::test]
async fn work_in_the_way_of_a_long_transaction_is_postponed_at_once() {
    let stage = Stage::set().await;
    let (reader, _driver) = stage.session().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.message").await.expect("reads");
    let started = Instant::now();
    let done = actions(&stage, "outbox.maintain('400 days')").await;
    let took = started.elapsed();
    assert!(done.iter().any(|(action, detail)| action == "postponed" && detail.starts_with("message_")), "{done:?}");
    assert!(done.iter().any(|(action, detail)| action == "created" && detail.starts_with("attempt_")), "{done:?}");
    assert_eq!(done.iter().filter(|(action, _)| action == "postponed").count(), 1, "the first lock says enough");
    assert!(took < Duration::from_secs(3), "{took:?}");
    reader.batch_execute("COMMIT").await.expect("commits");
    let done = actions(&stage, "outbox.maintain('400 days')").await;
    assert!(done.iter().all(|(action, _)| action == "created"), "{done:?}");
}

#[tokio::test]
async fn a_producer_in_the_middle_of_its_transaction_keeps_no_partition_from_being_made() {
    let stage = Stage::set().await;
    let (producer, _driver) = stage.session().await;
    producer.batch_execute("BEGIN").await.expect("begins");
    crate::common::enqueue_in(&producer, 1, None).await;
    let done = actions(&stage, "outbox.maintain('70 days')").await;
    assert!(!done.is_empty() && done.iter().all(|(action, _)| action == "created"), "{done:?}");
    producer.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(stage.claim().await.len(), 1);
}

#[tokio::test]
async fn the_callers_lock_timeout_is_its_own() {
    let stage = Stage::set().await;
    stage.run("BEGIN; SET LOCAL lock_timeout = '7s'; SELECT outbox.maintain()").await;
    assert_eq!(stage.text("SHOW lock_timeout").await, "7s");
    stage.run("ROLLBACK").await;
}

/// A producer that is taking an expired key over holds it until it commits: upkeep must neither fail nor delete it.
#[tokio::test]
async fn an_expired_key_that_a_producer_is_taking_over_neither_stops_upkeep_nor_is_removed() {
    let stage = Stage::set().await;
    stage.run("INSERT INTO outbox.dedup_key (key, digest, message_id, expires_at)
               SELECT 'k' || i, '', outbox.uuid_v7(), now() - interval '1 day' FROM generate_series(1, 3) i;
               INSERT INTO outbox.ordering (order_key, last_used) SELECT 'o' || i, now() - interval '2 days' FROM generate_series(1, 3) i").await;
    let (producer, _driver) = stage.session().await;
    producer
        .batch_execute(
            "BEGIN; UPDATE outbox.dedup_key SET expires_at = now() + interval '30 days' WHERE key = 'k2';
                        UPDATE outbox.ordering SET last_used = now() WHERE order_key = 'o2'",
        )
        .await
        .expect("takes the key over");
    let done = actions(&stage, "outbox.maintain('70 days')").await;
    assert!(done.iter().any(|(action, _)| action == "created"), "{done:?}");
    assert!(done.contains(&("expired keys".into(), "2".into())), "{done:?}");
    producer.batch_execute("COMMIT").await.expect("commits");
    stage.store.maintain(None).await.expect("maintains");
    assert_eq!(stage.text("SELECT string_agg(key, ',') FROM outbox.dedup_key").await, "k2");
    assert_eq!(stage.text("SELECT string_agg(order_key, ',') FROM outbox.ordering").await, "o2");
}

#[tokio::test]
async fn a_week_is_dropped_only_when_everything_in_it_has_ended() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    // Five weeks later, say.
    let drop_all = "outbox.drop_partitions_before(now() + interval '35 days')";
    let done = actions(&stage, drop_all).await;
    assert!(
        done.iter().any(|(action, detail)| action == "kept" && detail.ends_with("has unfinished deliveries")),
        "{done:?}"
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 1);
    assert!(stage.settle(&attempt, accepted()).await);
    let done = actions(&stage, drop_all).await;
    assert!(done.iter().all(|(action, _)| action == "dropped"), "{done:?}");
    for table in ["message", "attempt", "done"] {
        assert_eq!(stage.count(&format!("SELECT count(*) FROM outbox.{table}")).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_week_that_somebody_reads_is_dropped_later() {
    let stage = Stage::set().await;
    let (reader, _driver) = stage.session().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.message").await.expect("reads");
    let call = "outbox.maintain('28 days', '7 days')";
    assert!(actions(&stage, call).await.is_empty(), "the present week is never old");
    stage.run("SET lock_timeout = '100ms'").await;
    let done = actions(&stage, "outbox.drop_partitions_before(now() + interval '35 days')").await;
    assert!(!done.is_empty() && done.iter().all(|(action, _)| action == "postponed"), "{done:?}");
}

/// It was taken for the week, and what was enqueued in it went to the default partition without a word.
#[tokio::test]
async fn a_table_that_was_detached_and_has_the_name_of_a_week_is_told_until_it_is_renamed() {
    let stage = Stage::set().await;
    let week = stage
        .text("SELECT to_char(date_trunc('week', now() AT TIME ZONE 'UTC') + interval '14 days', 'YYYYMMDD')")
        .await;
    let name = format!("message_{week}");
    stage
        .run(&format!("ALTER TABLE outbox.message DETACH PARTITION outbox.{name}; DROP TABLE outbox.attempt_{week}"))
        .await;
    for _ in 0..2 {
        let done = actions(&stage, "outbox.maintain() WHERE action = 'name taken'").await;
        assert_eq!(done.len(), 1, "{done:?}");
        assert!(done[0].1.starts_with(&format!("{name} is not attached, and has the name of the week")), "{done:?}");
    }
    let made = format!("SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass('outbox.attempt_{week}')");
    assert_eq!(stage.count(&made).await, 1, "the others are made");
    let told = format!(
        "SELECT count(*) FROM outbox.upkeep_postponed WHERE what = '{name}' AND why LIKE '%RENAME TO {name}_archive%'"
    );
    assert_eq!(stage.count(&told).await, 1);
    stage.run(&format!("ALTER TABLE outbox.{name} RENAME TO {name}_archive")).await;
    assert_eq!(actions(&stage, "outbox.maintain()").await, [("created".to_owned(), name)]);
    assert_eq!(actions(&stage, "outbox.maintain()").await, []);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.upkeep_postponed").await, 0);
}

/// Where DETACH ... CONCURRENTLY was interrupted the table still hangs on its parent, which gives it nothing any more.
#[tokio::test]
async fn a_week_whose_detaching_was_interrupted_is_told_with_how_to_finish_it() {
    let stage = Stage::set().await;
    let name = stage.text("SELECT 'message_' || to_char(date_trunc('week', now() AT TIME ZONE 'UTC') + interval '14 days', 'YYYYMMDD')").await;
    stage.run("DROP TABLE outbox.message_default").await;
    let (reader, _driver) = stage.session().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.message").await.expect("reads");
    stage.run("SET statement_timeout = '1s'").await;
    let detach = format!("ALTER TABLE outbox.message DETACH PARTITION outbox.{name} CONCURRENTLY");
    stage.sql.execute(&detach, &[]).await.expect_err("the reader is in its way");
    stage.run("RESET statement_timeout").await;
    reader.batch_execute("COMMIT").await.expect("commits");
    let done = actions(&stage, "outbox.maintain() WHERE action = 'name taken'").await;
    assert!(
        done[0].1.contains(&format!("DETACH PARTITION outbox.{name} FINALIZE; ALTER TABLE outbox.{name} RENAME")),
        "{done:?}"
    );
}

#[tokio::test]
async fn upkeep_is_asked_for_what_can_be_meant() {
    let stage = Stage::set().await;
    let error = stage.sql.query("SELECT outbox.maintain('40 years')", &[]).await.expect_err("more than two years");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("22H77"), "{error:?}");
    // What has no week of its own, and an age that is before the first id there is.
    stage.enqueue(1).await;
    stage.run("UPDATE outbox.message SET id = outbox.uuid_floor('2024-01-01'); DELETE FROM outbox.queue").await;
    for keep in ["100000 years", "100 years", "31 years"] {
        assert_eq!(actions(&stage, &format!("outbox.maintain(keep => '{keep}')")).await, [], "{keep}");
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message_default").await, 1);
}
