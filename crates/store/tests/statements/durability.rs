//! Which commits are durable, whatever the defaults say (RC-43). Two witnesses: how far the WAL is flushed at the
//! moment of the answer, and a server that is killed right after it.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, Token};
use hapax_store::{Cursor, IntendAnswer, Store, Wait, migrate::Migrator};
use hapax_testkit::PgCluster;
use tokio_postgres::Client;

use crate::common::{Attempt, GRACE, LANE, LEASE, Stage, accepted, options, raw_intend, request, settlement};

/// A server whose WAL is flushed by durable commits alone, and whose defaults say that none has to be.
async fn careless_cluster() -> (PgCluster, Stage) {
    let cluster = PgCluster::builder()
        .setting("wal_writer_delay", "10s")
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("autovacuum", "off")
        .start()
        .await
        .expect("a cluster");
    let url = cluster.url();
    Migrator::connect(&options(&url)).await.expect("connects").up(|_| {}).await.expect("migrates");
    cluster
        .execute(
            "postgres",
            "ALTER DATABASE postgres SET synchronous_commit = off; ALTER ROLE postgres SET synchronous_commit = off",
        )
        .await
        .expect("careless defaults");
    let stage = Stage::at(&url).await;
    (cluster, stage)
}

/// Whether everything written so far has reached the disk.
async fn is_flushed(sql: &Client) -> bool {
    sql.query_one("SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()", &[]).await.expect("reads").get(0)
}

#[tokio::test]
async fn rc43_with_careless_defaults_intend_and_settle_are_durable_when_answered_and_a_claim_need_not_be() {
    let (_cluster, stage) = careless_cluster().await;
    assert_eq!(stage.text("SHOW synchronous_commit").await, "off", "the defaults are careless");
    stage.enqueue(6).await;
    assert!(!is_flushed(&stage.sql).await, "the witness can tell: an ordinary commit is not flushed");
    let mut attempts = Vec::new();
    for claimed in stage.claim().await {
        attempts.push(Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() });
    }
    assert!(!is_flushed(&stage.sql).await, "nor is a claim");

    let requests: Vec<_> = attempts.iter().map(request).collect();
    stage.store.intend(&requests, Wait::Skip).await.expect("intends");
    assert!(is_flushed(&stage.sql).await, "intend");
    assert!(stage.settle(&attempts[0], accepted()).await);
    assert!(is_flushed(&stage.sql).await, "settle");
    let marked = stage.store.mark_in_doubt(&[stage.store.incarnation()], GRACE).await.expect("marks");
    assert_eq!(marked.len(), 5);
    assert!(is_flushed(&stage.sql).await, "mark_in_doubt");
    stage.resolve(attempts[1].key, "resend", None, true).await;
    stage.late(&attempts[1], accepted()).await;
    assert!(is_flushed(&stage.sql).await, "settle_late");
    let doubt =
        stage.store.doubts(&[LANE], hapax_core::MessageId(uuid::Uuid::nil()), 1).await.expect("reads").remove(0);
    stage.store.decide_doubt(&doubt, "sent", "policy").await.expect("decides");
    assert!(is_flushed(&stage.sql).await, "decide_doubt");
    // A counter that falls back in a crash would make its relay take itself for another.
    stage.store.heartbeat(0).await.expect("beats");
    assert!(is_flushed(&stage.sql).await, "heartbeat");
}

#[tokio::test]
async fn rc43_no_acknowledged_intent_is_lost_when_the_server_is_killed() {
    let (cluster, first) = careless_cluster().await;
    let url = first.url.clone();
    drop(first);
    for trial in 0..8 {
        let stage = Stage::at(&url).await;
        stage.enqueue(20).await;
        let (mut acknowledged, mut cursor) = (Vec::new(), Cursor::START);
        for _ in 0..4 {
            let (next, claimed) = stage.store.claim(LANE, cursor, 5, LEASE).await.expect("claims");
            cursor = next;
            let attempts: Vec<Attempt> = claimed
                .iter()
                .map(|claimed| Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() })
                .collect();
            let requests: Vec<_> = attempts.iter().map(request).collect();
            let answers = stage.store.intend(&requests, Wait::Skip).await.expect("intends");
            acknowledged
                .extend(attempts.into_iter().zip(answers).filter(|(_, answer)| *answer == IntendAnswer::Granted));
        }
        assert_eq!(acknowledged.len(), 20);
        cluster.kill_immediate().await.expect("dies");
        cluster.restart().await.expect("recovers");
        let after = Stage::at(&url).await;
        for (attempt, _) in &acknowledged {
            let row = after.queued(attempt.key).await.expect("the row is there");
            assert_eq!(row.intent, Some(attempt.token.0), "trial {trial}: lost");
        }
        after.run("DELETE FROM outbox.queue").await;
    }
}

#[tokio::test]
async fn the_settings_of_a_pooled_session_are_what_they_were_after_each_statement() {
    let stage = Stage::set().await;
    for setting in ["on", "off", "local", "remote_apply"] {
        stage.run(&format!("SET synchronous_commit = {setting}; SET lock_timeout = '11s'")).await;
        let key = stage.enqueue(1).await[0];
        let lease = raw_claim(&stage.sql, &stage.store, key).await;
        assert_eq!(stage.text("SHOW synchronous_commit").await, setting, "after a claim");
        let attempt = Attempt { key, lease, token: Token::fresh() };
        assert_eq!(raw_intend(&stage.sql, &stage.store, &attempt).await, ["granted"]);
        assert_eq!(stage.text("SHOW synchronous_commit").await, setting, "after an intend");
        assert_eq!(stage.text("SHOW lock_timeout").await, "11s");
    }
    stage.run("SET synchronous_commit = remote_apply").await;
    assert_eq!(stage.text("SELECT outbox.durable_commit()").await, "remote_apply", "never weaker than it was");
}

async fn raw_claim(client: &Client, store: &Store, key: DeliveryKey) -> Lease {
    use tokio_postgres::types::Type;
    let (armed, lease) = (store.armed(), Lease::fresh());
    let rows = client
        .query_typed(
            include_str!("../../queries/claim.sql"),
            &[
                (&armed.epoch, Type::UUID),
                (&armed.identity, Type::TEXT),
                (&lease.0, Type::UUID),
                (&3600.0_f64, Type::FLOAT8),
                (&10_i64, Type::INT8),
                (&vec![10_i64], Type::INT8_ARRAY),
                (&vec![LANE], Type::INT2_ARRAY),
                (&vec![10_i64], Type::INT8_ARRAY),
                (&vec![1_i32], Type::INT4_ARRAY),
                (&vec![std::time::SystemTime::UNIX_EPOCH], Type::TIMESTAMPTZ_ARRAY),
                (&vec![uuid::Uuid::nil()], Type::UUID_ARRAY),
                (&vec![0_i16], Type::INT2_ARRAY),
            ],
        )
        .await
        .expect("claims");
    assert!(rows.iter().any(|row| row.get::<_, uuid::Uuid>("message_id") == key.message_id.0));
    lease
}

#[tokio::test]
async fn a_settle_repeated_after_a_crash_is_harmless() {
    let (cluster, stage) = careless_cluster().await;
    let attempt = stage.sending().await;
    assert!(stage.settle(&attempt, accepted()).await);
    let url = stage.url.clone();
    cluster.kill_immediate().await.expect("dies");
    cluster.restart().await.expect("recovers");
    let after = Stage::at(&url).await;
    assert_eq!(after.state(attempt.key).await, "sent");
    assert_eq!(after.store.settle(&[settlement(&attempt, accepted())]).await.expect("settles"), [false]);
    let late = tokio::time::timeout(Duration::from_secs(10), after.late(&attempt, accepted())).await.expect("in time");
    assert_eq!(late, hapax_store::LateAnswer::Already);
}
