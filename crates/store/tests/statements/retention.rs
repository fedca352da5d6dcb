//! Retention: content goes when its time is over and never before, weeks go whole, and nobody waits for either.

use hapax_core::{DeliveryKey, MessageId, Token};
use hapax_store::{Keeps, Removed};

use crate::common::{Attempt, Stage, accepted, enqueue_in, refused};

const WITH_CONTENT: &str = "SELECT count(*) FROM outbox.message m
    WHERE num_nonnulls(m.payload, m.subject, m.body_text, m.body_html, m.raw_message, m.headers, m.attachments) > 0";

fn keeps(default: Option<f64>) -> Keeps {
    Keeps { kinds: Vec::new(), default }
}

/// Everything ever enqueued, its ends and their order, are so much older.
async fn age(stage: &Stage, by: &str) {
    let mut sql = format!("UPDATE outbox.done SET finished_at = finished_at - interval '{by}';");
    for (table, id) in [("message", "id"), ("queue", "message_id"), ("done", "message_id"), ("attempt", "message_id")] {
        sql += &format!(
            "UPDATE outbox.{table} SET {id} = (left(outbox.uuid_floor(outbox.uuid_time({id}) - interval '{by}')::text, 13)
                                               || right({id}::text, 23))::uuid;"
        );
    }
    stage.run(&sql).await;
}

async fn remove(stage: &Stage, keeps: &Keeps) -> i64 {
    let mut messages = 0;
    loop {
        let removed = stage.store.remove_contents(keeps, 100).await.expect("removes");
        messages += removed.messages;
        if !removed.more {
            return messages;
        }
    }
}

async fn send(stage: &Stage, key: DeliveryKey) {
    let attempt = stage.send(key).await;
    assert!(stage.settle(&attempt, accepted()).await);
}

#[tokio::test]
async fn content_goes_when_it_was_accepted_for_everybody_and_the_record_stays() {
    let stage = Stage::set().await;
    let sent = stage.enqueue(1).await[0];
    send(&stage, sent).await;
    let shared = stage.enqueue_one(2, None).await;
    age(&stage, "5 minutes").await;
    assert_eq!(remove(&stage, &keeps(None)).await, 0, "forever");
    assert_eq!(remove(&stage, &keeps(Some(3600.0))).await, 0, "an hour");
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 1);
    assert_eq!(stage.count(WITH_CONTENT).await, 1, "of its two recipients nobody has it");
    let claimed = stage.claim().await;
    assert_eq!(claimed.len(), shared.len());
    let left = "SELECT string_agg(kind || ' ' || recipients[1], ',') FROM outbox.message";
    assert!(stage.text(left).await.contains("note r1@example.org"), "who got what kind is kept");
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 0, "nothing twice");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn what_had_not_ended_when_its_turn_came_is_looked_at_again() {
    let stage = Stage::set().await;
    let keys = stage.enqueue_one(2, None).await;
    age(&stage, "5 minutes").await;
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.content_later").await, 1);
    let claimed = stage.claim().await;
    for one in &claimed {
        let attempt = Attempt { key: one.key, lease: one.lease, token: Token::fresh() };
        stage.intend(&attempt).await;
        assert!(stage.settle(&attempt, accepted()).await);
    }
    assert_eq!(claimed.len(), keys.len());
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 0, "not before its time");
    stage.run("UPDATE outbox.content_later SET look_at = now()").await;
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.content_later").await, 0);
}

#[tokio::test]
async fn what_was_not_accepted_keeps_its_content_for_thirty_days_or_as_long_as_is_said() {
    let stage = Stage::set().await;
    let failed = stage.sending().await;
    assert!(stage.settle(&failed, refused()).await);
    let doubted = stage.doubtful().await;
    assert_eq!(stage.resolve(doubted.key, "sent", None, true).await, "sent");
    age(&stage, "29 days").await;
    assert_eq!(
        remove(&stage, &keeps(Some(0.0))).await,
        0,
        "somebody may want to retry it; a doubt was decided as sent"
    );
    assert_eq!(remove(&stage, &keeps(Some(28.0 * 86400.0))).await, 2, "whatever its end");
    let failed = stage.sending().await;
    assert!(stage.settle(&failed, refused()).await);
    age(&stage, "31 days").await;
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 1);
}

#[tokio::test]
async fn each_kind_has_its_time_and_a_kind_that_gets_a_shorter_one_is_gone_through_again() {
    let stage = Stage::set().await;
    for kind in ["note", "reset", "law"] {
        let sql = "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ($1, '{a@example.org}', 'x', 'x') RETURNING id";
        let id = stage.sql.query_one(sql, &[&kind]).await.expect("enqueues").get(0);
        send(&stage, DeliveryKey { message_id: MessageId(id), recipient_no: 1 }).await;
    }
    age(&stage, "2 days").await;
    let mut times = Keeps { kinds: vec![("reset".into(), Some(0.0)), ("law".into(), None)], default: Some(259_200.0) };
    assert_eq!(remove(&stage, &times).await, 1, "the reset");
    times.default = Some(86_400.0);
    assert_eq!(remove(&stage, &times).await, 1, "the note");
    let left = "SELECT string_agg(kind, ',') FROM outbox.message WHERE subject IS NOT NULL";
    assert_eq!(stage.text(left).await, "law");
    times.kinds[1].1 = Some(0.0);
    assert_eq!(remove(&stage, &times).await, 1, "the law");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.content_sweep").await, 2, "one for each time");
}

/// A retry has the terminal row locked until it commits: its content must be there afterwards, also when another recipient
/// of the message has nothing to do with it.
#[tokio::test]
async fn what_somebody_is_retrying_keeps_its_content() {
    let stage = Stage::set().await;
    stage.enqueue_one(2, None).await;
    for one in stage.claim().await {
        let failed = Attempt { key: one.key, lease: one.lease, token: Token::fresh() };
        stage.intend(&failed).await;
        assert!(stage.settle(&failed, refused()).await);
    }
    age(&stage, "31 days").await;
    let key = stage.text("SELECT id::text FROM outbox.message").await;
    let (operator, _driver) = stage.session().await;
    operator.batch_execute(&format!("BEGIN; SELECT outbox.retry('{key}', 1, 'test')")).await.expect("retries");
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 0);
    operator.batch_execute("COMMIT").await.expect("commits");
    stage.run("UPDATE outbox.content_later SET look_at = now()").await;
    assert_eq!(remove(&stage, &keeps(Some(0.0))).await, 0);
    assert_eq!(stage.claim().await.len(), 1);
    assert_eq!(stage.count(WITH_CONTENT).await, 1);
}

#[tokio::test]
async fn nobody_waits_for_a_removal_and_one_session_at_a_time_does_it() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        let key = stage.enqueue(1).await[0];
        send(&stage, key).await;
    }
    age(&stage, "5 minutes").await;
    let (other, _driver) = stage.session().await;
    other.batch_execute("BEGIN; SELECT outbox.remove_contents('{}', '{}', 0)").await.expect("removes");
    assert_eq!(stage.store.remove_contents(&keeps(Some(0.0)), 100).await.expect("answers"), Removed::default());
    // Producers, claims and settles of others get on while it has not committed.
    stage.run("SET lock_timeout = '1s'").await;
    let again = stage.enqueue(1).await[0];
    send(&stage, again).await;
    enqueue_in(&stage.sql, 2, None).await;
    other.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(stage.count(WITH_CONTENT).await, 2);
}

#[tokio::test]
async fn a_dedup_key_stands_for_its_content_after_that_is_gone() {
    let stage = Stage::set().await;
    let enqueue = |text: &'static str| {
        format!(
            "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['a@example.org'], subject => 'x', body_text => '{text}', dedup_key => 'k')::text"
        )
    };
    let first = stage.text(&enqueue("x")).await;
    send(&stage, DeliveryKey { message_id: MessageId(first.parse().expect("a uuid")), recipient_no: 1 }).await;
    stage.run("UPDATE outbox.done SET finished_at = finished_at - interval '1 hour'").await;
    let emptied =
        "SELECT count(*) FROM outbox.empty_messages(ARRAY(SELECT id FROM outbox.message), '{0}') WHERE emptied";
    assert_eq!(stage.count(emptied).await, 1);
    assert_eq!(stage.count(WITH_CONTENT).await, 0);
    assert_eq!(stage.text(&enqueue("x")).await, first, "a producer's retry");
    let error = stage.sql.query_one(&enqueue("y"), &[]).await.expect_err("another content");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("23H01"), "{error:?}");
}

#[tokio::test]
async fn what_hangs_on_a_week_goes_with_it_and_a_week_that_stays_overdue_is_told() {
    let stage = Stage::set().await;
    let failed = stage.sending().await;
    assert!(stage.settle(&failed, refused()).await);
    stage.run("SELECT outbox.audit_entry('hold', message_id, 1, NULL, 'test', 'a', 'b') FROM outbox.done").await;
    stage.run("INSERT INTO outbox.digest_member (message_id, recipient_no, key) SELECT message_id, 1, '' FROM outbox.done").await;
    let (reader, _driver) = stage.session().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.message").await.expect("reads");
    let drop_all =
        "SELECT string_agg(DISTINCT action, ',') FROM outbox.drop_partitions_before(now() + interval '35 days')";
    assert_eq!(stage.text(drop_all).await, "postponed");
    let hanging = "SELECT count(*) FROM (SELECT message_id FROM outbox.audit WHERE message_id IS NOT NULL UNION ALL SELECT message_id FROM outbox.digest_member
                   UNION ALL SELECT message_id FROM outbox.done) x";
    assert_eq!(stage.count(hanging).await, 0);
    let told = "SELECT count(*) FROM outbox.upkeep_postponed WHERE why = 'is in use by another transaction'";
    assert!(stage.count(told).await >= 5);
    stage.run("UPDATE outbox.upkeep_postponed SET since = now() - interval '3 days'").await;
    assert_eq!(stage.text(drop_all).await, "overdue");
    reader.batch_execute("COMMIT").await.expect("commits");
    // Who does not see what is committed meanwhile drops nothing.
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        reader.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).await.expect("begins");
        let told: String = reader.query_one(drop_all, &[]).await.expect("is told").get(0);
        assert_eq!(told, "postponed", "{level}");
        reader.batch_execute("COMMIT").await.expect("commits");
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.upkeep_postponed WHERE what = 'old weeks'").await, 1);
    assert_eq!(stage.text(drop_all).await, "dropped");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.upkeep_postponed").await, 0);
}

/// Weeks of millions are deleted bit by bit, before anybody is locked out.
#[tokio::test]
async fn a_large_week_is_dropped_in_several_calls_and_what_came_without_a_partition_goes_too() {
    let stage = Stage::set().await;
    stage.enqueue(1).await;
    stage
        .run(
            "INSERT INTO outbox.done (message_id, recipient_no, state, evidence, lane, address_hash)
               SELECT outbox.uuid_v7(), 1, 'sent', 'reply', 1, i FROM generate_series(1, 20001) i;
               UPDATE outbox.message SET id = outbox.uuid_floor('2024-01-01');
               DELETE FROM outbox.queue",
        )
        .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message_default").await, 1);
    let (other, _driver) = stage.session().await;
    other
        .batch_execute("BEGIN; SELECT * FROM outbox.drop_partitions_before(now() + interval '35 days')")
        .await
        .expect("drops");
    stage.run("SET lock_timeout = '1s'").await;
    stage.enqueue(1).await;
    stage.run("DELETE FROM outbox.queue").await;
    other.batch_execute("COMMIT").await.expect("commits");
    let drop_all = "SELECT string_agg(DISTINCT action, ',' ORDER BY action) FROM outbox.drop_partitions_before(now() + interval '35 days')";
    assert_eq!(stage.text(drop_all).await, "deleted,dropped,unqueued");
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.done").await
            + stage.count("SELECT count(*) FROM outbox.message").await,
        0
    );
}

#[tokio::test]
async fn a_week_with_a_delivery_that_somebody_has_locked_stays() {
    let stage = Stage::set().await;
    let failed = stage.sending().await;
    assert!(stage.settle(&failed, refused()).await);
    let (operator, _driver) = stage.session().await;
    operator.batch_execute("BEGIN; SELECT * FROM outbox.done FOR UPDATE").await.expect("locks");
    let drop_all = "SELECT string_agg(DISTINCT action, ',' ORDER BY action) FROM outbox.drop_partitions_before(now() + interval '35 days')";
    assert_eq!(stage.text(drop_all).await, "dropped,postponed");
    operator.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 1);
}

/// Afterwards nobody can tell: with its week the deliveries of what was sent go, too.
#[tokio::test]
async fn how_many_messages_of_a_week_had_no_delivery_is_told_once_before_it_is_dropped() {
    let stage = Stage::set().await;
    let attempts = [stage.sending().await, stage.sending().await, stage.sending().await];
    for attempt in &attempts {
        assert!(stage.settle(attempt, accepted()).await);
    }
    let lost = stage.text("SELECT min(message_id::text) FROM outbox.done").await;
    stage.run(&format!("DELETE FROM outbox.done WHERE message_id = '{lost}'")).await;
    let archive = stage.text("SELECT max(tableoid::regclass::text) FROM outbox.attempt").await;
    stage.run(&format!("ALTER TABLE outbox.attempt DETACH PARTITION {archive}")).await;
    let (reader, _driver) = stage.session().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM outbox.message").await.expect("reads");
    let drop_all = "SELECT coalesce(string_agg(detail, ' ' ORDER BY detail) FILTER (WHERE action = 'unqueued'), '') FROM outbox.drop_partitions_before(now() + interval '35 days')";
    let said = stage.text(drop_all).await;
    assert!(
        said.ends_with(&format!(": messages without a delivery, neither queued nor ended: 1, the first {lost}")),
        "{said}"
    );
    // The deliveries of the others have gone: it does not count again, also not long after.
    stage.run("UPDATE outbox.upkeep_postponed SET last_at = now() - interval '8 days'").await;
    assert_eq!(stage.text(drop_all).await, "");
    reader.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(stage.text(drop_all).await, "");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 0);
    assert_eq!(stage.text("SELECT string_agg(after, ' ') FROM outbox.audit WHERE action = 'drop'").await, said);
    assert_eq!(stage.count(&format!("SELECT count(*) FROM {archive}")).await, 3, "what was detached is somebody's");
}
