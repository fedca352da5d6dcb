//! What stands behind every door: one queue row per distinct recipient, and nothing for what is restored.

use crate::common::Stage;

#[tokio::test]
async fn rc48_restored_data_does_not_become_due() {
    let stage = Stage::set().await;
    stage.enqueue_one(3, None).await;
    let dump = "CREATE TABLE dump AS SELECT * FROM outbox.message; UPDATE dump SET id = outbox.uuid_v7(); DELETE FROM outbox.queue";
    stage.run(dump).await;
    // As pg_restore --data-only and bulk copies do it: with every column.
    stage.run("INSERT INTO outbox.message SELECT * FROM dump").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    assert!(stage.claim().await.is_empty());
    stage.enqueue(1).await;
    assert_eq!(stage.claim().await.len(), 1, "new ones are");
}

/// Whoever writes into the table believes that something will be sent; so did a call that a migration overtook.
#[tokio::test]
async fn a_message_is_not_stored_without_its_deliveries_by_mistake() {
    let stage = Stage::set().await;
    let insert = "INSERT INTO outbox.message (kind, recipients, subject, body_text) VALUES ('note', '{a@example.org}', 'x', 'x')";
    let error = stage.sql.batch_execute(insert).await.expect_err("refused");
    let said = error.as_db_error().expect("the server says it");
    assert_eq!(said.code().code(), "40001");
    assert!(said.hint().expect("a hint").contains("outbox.enqueue()"), "{said:?}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 0);
}

#[tokio::test]
async fn rc30_a_repeated_address_has_one_delivery_at_its_first_place() {
    let stage = Stage::set().await;
    stage
        .run("INSERT INTO outbox.notification (kind, recipients, cc, bcc, subject, body_text) VALUES ('note',
              ARRAY['Ada <ada@example.org>', 'bob@example.org', 'ADA@example.org'], ARRAY['\"B, o\" <bob@example.org>', 'eve@example.org'],
              ARRAY['eve@example.org', 'mallory@example.org'], 'x', 'x')")
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
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, not_before)
              VALUES ('note', ARRAY['a@example.org'], 'x', 'x', now() + interval '1 hour')",
        )
        .await;
    assert!(stage.claim().await.is_empty());
    stage.run("UPDATE outbox.queue SET due_at = due_at - interval '1 hour'").await;
    assert_eq!(stage.claim().await.len(), 1);
}
