//! The trigger behind every door: one row per distinct recipient, and nothing old.

use crate::common::Stage;

const OLD: &str = "outbox.uuid_floor(now() - interval '61 minutes')";

#[tokio::test]
async fn rc48_ids_older_than_an_hour_are_refused_whole() {
    let stage = Stage::set().await;
    let insert = |id: &str| {
        format!(
            "INSERT INTO outbox.message (id, kind, recipients, subject, body_text) VALUES ({id}, 'note', ARRAY['a@example.org'], 'x', 'x')"
        )
    };
    let refusal = stage.sql.batch_execute(&insert(OLD)).await.expect_err("refused");
    assert_eq!(refusal.code().expect("a state").code(), "22H90");
    let mixed = format!("{}, (outbox.uuid_v7(), 'note', ARRAY['a@example.org'], 'x', 'x')", insert(OLD));
    stage.sql.batch_execute(&mixed).await.expect_err("one old id refuses them all");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 0);
    stage.run(&insert("outbox.uuid_floor(now() - interval '59 minutes')")).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 1);
}

#[tokio::test]
async fn rc48_restored_data_does_not_become_due() {
    let stage = Stage::set().await;
    stage.enqueue_one(3, None).await;
    let old = format!(
        "CREATE TABLE dump AS SELECT * FROM outbox.message; UPDATE dump SET id = {OLD}; DELETE FROM outbox.queue"
    );
    stage.run(&old).await;
    // As pg_restore --data-only and bulk copies do it.
    stage
        .sql
        .batch_execute("INSERT INTO outbox.message SELECT * FROM dump")
        .await
        .expect_err("history is not sent again");
    assert!(stage.claim().await.is_empty());
    // As the hint says, for who really wants the history.
    stage
        .run("ALTER TABLE outbox.message DISABLE TRIGGER message_fills_queue; INSERT INTO outbox.message SELECT * FROM dump;
              ALTER TABLE outbox.message ENABLE TRIGGER message_fills_queue")
        .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    stage.enqueue(1).await;
    assert_eq!(stage.claim().await.len(), 1, "new ones are");
}

#[tokio::test]
async fn rc30_a_repeated_address_has_one_delivery_at_its_first_place() {
    let stage = Stage::set().await;
    stage
        .run("INSERT INTO outbox.message (kind, recipients, cc, bcc, subject, body_text) VALUES ('note',
              ARRAY['Ada <ada@example.org>', 'bob@example.org', 'ADA@example.org'], ARRAY['\"B, o\" <bob@example.org>', 'eve@example.org'],
              ARRAY['eve@example.org ', 'mallory@example.org'], 'x', 'x')")
        .await;
    let numbers =
        stage.text("SELECT string_agg(recipient_no::text, ',' ORDER BY recipient_no) FROM outbox.queue").await;
    assert_eq!(numbers, "1,2,5,7");
    assert_eq!(
        stage
            .count("SELECT count(*) FROM outbox.queue WHERE address_hash = outbox.address_hash('ada@EXAMPLE.org')")
            .await,
        1
    );
}

#[tokio::test]
async fn what_is_rolled_back_was_never_there() {
    let stage = Stage::set().await;
    stage.run("BEGIN").await;
    stage.enqueue(5).await;
    let (other, _driver) = stage.session().await;
    let seen: i64 = other.query_one("SELECT count(*) FROM outbox.queue", &[]).await.expect("reads").get(0);
    assert_eq!(seen, 0);
    stage.run("ROLLBACK").await;
    assert!(stage.claim().await.is_empty());
}

#[tokio::test]
async fn what_commits_late_lies_behind_the_cursor_and_is_found_from_the_start() {
    let stage = Stage::set().await;
    let (slow, _driver) = stage.session().await;
    slow.batch_execute("BEGIN").await.expect("begins");
    let late = crate::common::enqueue_in(&slow, 1, None).await[0];
    stage.enqueue(2).await;
    let lane = crate::common::LANE;
    let (cursor, claimed) =
        stage.store.claim(lane, hapax_store::Cursor::START, 2, crate::common::LEASE).await.expect("claims");
    assert_eq!(claimed.len(), 2);
    slow.batch_execute("COMMIT").await.expect("commits");
    assert!(stage.store.claim(lane, cursor, 2, crate::common::LEASE).await.expect("claims").1.is_empty());
    assert_eq!(stage.claim().await[0].key, late);
}

#[tokio::test]
async fn a_time_in_the_future_is_waited_for() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.message (kind, recipients, subject, body_text, not_before)
              VALUES ('note', ARRAY['a@example.org'], 'x', 'x', now() + interval '1 hour')",
        )
        .await;
    assert!(stage.claim().await.is_empty());
    stage.run("UPDATE outbox.queue SET due_at = due_at - interval '1 hour'").await;
    assert_eq!(stage.claim().await.len(), 1);
}
