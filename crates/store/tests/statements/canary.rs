//! The canary: one per slot whoever asks, none while one is under way, and the truth about the last one that came through.
//!
//! A slot is a day here, so that none ends while a test runs; time passes by moving what the outbox remembers.

use std::time::Duration;

use hapax_core::{DeliveryKey, MessageId};
use hapax_store::{Canary, CanarySeen, Store};
use uuid::Uuid;

use crate::common::{Stage, accepted, refused};

const DAY: Duration = Duration::from_secs(86_400);
const CANARIES: &str = "SELECT count(*) FROM outbox.message WHERE kind = 'hapax_canary'";

fn canary(every: Duration) -> Canary {
    Canary { recipient: "Canary <canary@example.org>".into(), every, route: None, from: None }
}

async fn ask(store: &Store, every: Duration) -> CanarySeen {
    store.canary(&canary(every)).await.expect("answers")
}

/// What is remembered becomes older by as much.
async fn pass(stage: &Stage, time: &str) {
    stage.run(&format!("UPDATE outbox.canary_standing SET enqueued_at = enqueued_at - interval '{time}'")).await;
}

/// The one under way.
async fn open(stage: &Stage) -> DeliveryKey {
    let sql = "SELECT message_id FROM outbox.queue JOIN outbox.message ON id = message_id WHERE kind = 'hapax_canary'";
    let id: Uuid = stage.sql.query_one(sql, &[]).await.expect("there is one").get(0);
    DeliveryKey { message_id: MessageId(id), recipient_no: 1 }
}

#[tokio::test]
async fn of_ten_relays_at_once_one_enqueues_and_nobody_waits() {
    let stage = Stage::set().await;
    let mut relays = Vec::new();
    for _ in 0..10 {
        relays.push(stage.relay().await);
    }
    for day in 0..3 {
        let (holder, _driver) = stage.session().await;
        holder.batch_execute("BEGIN; SELECT * FROM outbox.canary_standing FOR UPDATE").await.expect("locks");
        let seen = ask(&stage.store, DAY).await;
        assert!(!seen.enqueued, "somebody else is at it: {seen:?}");
        holder.batch_execute("ROLLBACK").await.expect("lets go");
        let asked: Vec<_> = relays
            .iter()
            .map(|store| {
                let store = store.clone();
                tokio::spawn(async move { ask(&store, DAY).await })
            })
            .collect();
        let mut enqueued = 0;
        for asked in asked {
            enqueued += u32::from(asked.await.expect("no panic").enqueued);
        }
        assert_eq!(enqueued, 1);
        let seen = ask(&stage.store, DAY).await;
        assert!(seen.under_way && !seen.enqueued && seen.enqueued_s.is_some() && seen.next_in <= DAY, "{seen:?}");
        assert_eq!(stage.count(CANARIES).await, day + 1);
        stage.settle(&stage.send(open(&stage).await).await, accepted()).await;
        pass(&stage, "1 day").await;
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.dedup_key").await, 0, "nothing accumulates");
}

#[tokio::test]
async fn while_one_is_under_way_in_whatever_state_no_other_is_enqueued_and_only_an_acceptance_counts() {
    let stage = Stage::set().await;
    assert!(ask(&stage.store, DAY).await.enqueued);
    let key = open(&stage).await;
    pass(&stage, "100 days").await;
    let none = async |state: &str| {
        let seen = ask(&stage.store, DAY).await;
        assert!(seen.under_way && !seen.enqueued && seen.completed_s.is_none(), "{state}: {seen:?}");
        assert_eq!((stage.state(key).await.as_str(), stage.count(CANARIES).await), (state, 1));
    };
    none("pending").await;
    let attempt = stage.send(key).await;
    none("sending").await;
    let away = "UPDATE outbox.queue SET parked = 'doubt', doubt_since = now(), doubt_by = 'relay', due_at = 'infinity'";
    stage.run(away).await;
    let seen = ask(&stage.store, DAY).await;
    assert!(seen.enqueued && seen.under_way && seen.completed_s.is_none(), "a doubt holds up no other: {seen:?}");
    stage.resolve(key, "sent", Some(attempt.token), true).await;
    assert!(ask(&stage.store, DAY).await.completed_s.is_none(), "somebody believes so, nobody has seen it");
    stage.settle(&stage.send(open(&stage).await).await, refused()).await;
    pass(&stage, "1 day").await;
    let seen = ask(&stage.store, DAY).await;
    assert!(seen.enqueued && seen.completed_s.is_none(), "{seen:?}");
    let key = open(&stage).await;
    stage.settle(&stage.send(key).await, accepted()).await;
    let finished = "SELECT date_part('epoch', finished_at) FROM outbox.done WHERE message_id = $1";
    let finished: f64 = stage.sql.query_one(finished, &[&key.message_id.0]).await.expect("it is done").get(0);
    let seen = ask(&stage.relay().await, DAY).await;
    assert!(!seen.under_way && !seen.enqueued, "this slot has had its own: {seen:?}");
    assert_eq!(seen.completed_s, Some(finished));
    stage.run("TRUNCATE outbox.message, outbox.done, outbox.attempt").await;
    assert_eq!(ask(&stage.store, DAY).await.completed_s, Some(finished), "also when its history is gone");
    stage.run("TRUNCATE outbox.canary_standing").await;
    assert!(ask(&stage.store, DAY).await.enqueued, "what was lost is begun anew");
}

#[tokio::test]
async fn a_clock_that_went_back_and_relays_of_different_slots_neither_stop_the_canary_nor_multiply_it() {
    let stage = Stage::set().await;
    let ahead = "enqueued_at = now() + interval '1 year', completed_at = now() + interval '1 year'";
    stage.run(&format!("UPDATE outbox.canary_standing SET {ahead}")).await;
    let seen = ask(&stage.store, DAY).await;
    let now: f64 = stage.sql.query_one("SELECT date_part('epoch', now())", &[]).await.expect("a clock").get(0);
    let completed = seen.completed_s.expect("it is known");
    assert!(!seen.enqueued && (now - completed).abs() < 30.0, "it counts as of now, and grows old: {seen:?}");
    assert_eq!(ask(&stage.store, DAY).await.completed_s, Some(completed));
    pass(&stage, "1 day").await;
    assert!(ask(&stage.store, DAY).await.enqueued);
    stage.settle(&stage.send(open(&stage).await).await, accepted()).await;
    pass(&stage, "2 s").await;
    assert!(!ask(&stage.store, DAY).await.enqueued, "by its slots it is not time");
    let often = Duration::from_secs(1);
    assert!(ask(&stage.store, often).await.enqueued, "by these it is");
    assert!(!ask(&stage.store, DAY).await.enqueued && !ask(&stage.store, often).await.enqueued);
    assert_eq!(stage.count(CANARIES).await, 2);
}

#[tokio::test]
async fn a_canary_is_a_plain_notification_that_ends_by_itself_and_relays_alone_may_ask_for_it() {
    let stage = Stage::set().await;
    let wanted = Canary {
        route: Some("second".into()),
        from: Some("Hapax <hapax@example.org>".into()),
        ..canary(Duration::from_secs(300))
    };
    assert!(stage.store.canary(&wanted).await.expect("answers").enqueued);
    let row = stage.text("SELECT concat_ws('|', kind, recipients, sender, route, subject, priority, on_doubt, expires_at - created_at < interval '15 min', dedup_key, headers) FROM outbox.message").await;
    let expected = "hapax_canary|{\"Canary <canary@example.org>\"}|Hapax <hapax@example.org>|second|Hapax canary|normal|assume_sent|t";
    assert_eq!(row, expected);
    assert_eq!(stage.text("SELECT state FROM outbox.deliveries").await, "pending", "views show it as any other");
    for bad in [Canary { recipient: "nobody".into(), ..canary(DAY) }, canary(2 * DAY)] {
        stage.run("UPDATE outbox.canary_standing SET message_id = NULL, enqueued_at = NULL").await;
        let error = stage.store.canary(&bad).await.expect_err("is refused").to_string();
        assert!(error.contains("outbox.canary: ") && !error.contains("nobody"), "{error}");
        assert_eq!(stage.count(CANARIES).await, 1);
    }
    for (role, may) in
        [("relay", true), ("producer", false), ("operator", false), ("viewer", false), ("monitor", false)]
    {
        let sql = format!(
            "SELECT has_function_privilege('outbox_{role}', 'outbox.canary(text, interval, text, text)', 'EXECUTE')::int
               + 2 * has_table_privilege('outbox_{role}', 'outbox.canary_standing', 'SELECT, INSERT, UPDATE, DELETE')::int"
        );
        assert_eq!(stage.count(&format!("SELECT ({sql})::bigint")).await, i64::from(may), "{role}");
    }
}
