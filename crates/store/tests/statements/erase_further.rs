//! Erasing what is only reached when asked for: doubts, and messages to others.

use std::time::Duration;

use hapax_core::DeliveryKey;
use uuid::Uuid;

use crate::{
    common::{Stage, unknown},
    erase::{LOCAL, called, end, plain, sqlstate, tables_with, took_it},
};

#[tokio::test]
async fn a_doubt_that_is_closed_is_taken_for_sent_and_only_once_its_attempt_is_over() {
    let stage = Stage::set().await;
    let close = async |key: DeliveryKey| {
        let all = called(&stage.sql, ", close_doubts => true").await;
        let own = all.iter().filter(|(id, _)| *id == Some(key.message_id.0)).map(|(_, result)| result.clone());
        own.collect::<Vec<_>>().join(" and ")
    };
    let flying = plain(&stage).await;
    let flight = stage.send(flying).await;
    assert_eq!(close(flying).await, "kept: in flight; call again");
    stage.store.mark_in_doubt(&[stage.store.incarnation()], Duration::from_secs(900)).await.expect("marks");
    assert_eq!(close(flying).await, "kept: in doubt, and its attempt may still be alive; call again");
    assert_eq!(stage.state(flying).await, "in_doubt");
    // Its relay says itself that it does not know.
    let other = plain(&stage).await;
    let attempt = end(&stage, other, unknown()).await;
    assert_eq!(close(other).await, "doubt closed, erased");
    let done = stage.done(other).await.expect("ended");
    assert_eq!((done.state.as_str(), done.evidence.as_deref(), done.open_doubts), ("sent", Some("erased"), 1));
    assert_eq!(stage.evidence(&attempt, "not_sent").await, "noted: it is sent");
    assert_eq!(stage.retry(other, true).await, "nothing to retry: it is sent");
    assert!(stage.settle(&flight, took_it()).await);
    assert_eq!(close(flying).await, "erased");
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
    stage.assert_consistent().await;
}

#[tokio::test]
async fn messages_to_others_that_name_the_address_are_emptied_where_that_is_asked_for() {
    let stage = Stage::set().await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, payload, reply_to, ordering_key) VALUES
        ('note', '{a@example.org}', '{\"from\": \"Zebedee@example.org\"}', NULL, NULL), ('note', '{b@example.org}', '{}', 'zebedee@example.org', 'k:zebedee@example.org'),
        ('note', '{c@example.org}', '{\"from\": \"ozebedee@example.org\"}', NULL, NULL), ('note', '{zebedee@example.org}', '{}', NULL, NULL),
        ('note', '{d@example.org}', '{\"from\": \"zebedee@example.org\"}', NULL, NULL) RETURNING id";
    let ids: Vec<Uuid> = stage.sql.query(insert, &[]).await.expect("enqueues").iter().map(|row| row.get(0)).collect();
    for id in &ids[..4] {
        stage.run(&format!("SELECT outbox.cancel('{id}', 'x')")).await;
    }
    let all = async |page: i32| {
        let (mut found, mut after) = (Vec::new(), None::<Uuid>);
        loop {
            let sql = "SELECT message_id, result FROM outbox.erase_mentions('ZEBEDEE@example.org', 'x', $1, $2)";
            let rows = stage.sql.query(sql, &[&after, &page]).await.expect("erases");
            let mut rows: Vec<(Uuid, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let more = rows.pop_if(|last| last.1 == "more");
            found.extend(rows);
            match more {
                Some(last) => after = Some(last.0),
                None => return found,
            }
        }
    };
    let expected = [
        (ids[0], "erased".to_owned()),
        (ids[1], "erased".to_owned()),
        (ids[3], "kept: the address is a recipient of it; outbox.erase() comes first".to_owned()),
        (ids[4], "kept: it has not ended; call again then".to_owned()),
    ];
    assert_eq!(all(2).await, expected);
    assert_eq!(all(100).await, expected[2..], "what is gone is not found again");
    let left = "SELECT string_agg(recipients[1], ' ' ORDER BY id) FROM outbox.message WHERE payload IS NOT NULL";
    assert_eq!(stage.text(left).await, "c@example.org zebedee@example.org d@example.org");
    called(&stage.sql, "").await;
    stage.run(&format!("SELECT outbox.cancel('{}', 'x')", ids[4])).await;
    assert_eq!(all(100).await, [(ids[4], "erased".to_owned())]);
    let left = "SELECT string_agg(recipients[1] || coalesce(payload::text, ''), ' ' ORDER BY id) FROM outbox.message WHERE payload IS NOT NULL OR recipients[1] LIKE 'a@%'";
    assert_eq!(stage.text(left).await, "a@example.org c@example.org{\"from\": \"ozebedee@example.org\"}");
    assert_eq!(
        sqlstate(&stage.sql, "SELECT outbox.erase_mentions('zebedee@example.org', 'for zebedee@example.org')").await,
        "22H75"
    );
    stage.assert_consistent().await;
}

#[tokio::test]
async fn two_who_erase_one_address_do_not_wait_for_each_others_dedup_keys() {
    let stage = Stage::set().await;
    let (mut other, _driver) = stage.session().await;
    // Both have ended, so that each eraser may begin with either.
    let mut ids = Vec::new();
    for key in ["1:zebedee@example.org", "2:zebedee@example.org"] {
        let insert = format!(
            "INSERT INTO outbox.notification (kind, recipients, payload, dedup_key) VALUES ('note', '{{zebedee@example.org}}', '{{}}', '{key}') RETURNING id"
        );
        let id: Uuid = stage.sql.query_one(&insert, &[]).await.expect("enqueues").get(0);
        stage.run(&format!("SELECT outbox.cancel('{id}', 'x')")).await;
        ids.push(id);
    }
    let keys = "SELECT count(*) FROM outbox.dedup_key";
    // One has come to the second message, and to no other: it holds that one's key.
    let first = other.transaction().await.expect("begins");
    let erase = "SELECT result FROM outbox.erase_message($1, 'zebedee@example.org', outbox.proof_of('zebedee@example.org'), 'x', false)";
    assert_eq!(first.query_one(erase, &[&ids[1]]).await.expect("erases").get::<_, &str>(0), "erased");
    // The other has all the rest, and would wait here.
    assert_eq!(
        called(&stage.sql, "").await,
        [
            (Some(ids[0]), "erased".to_owned()),
            (Some(ids[1]), "kept: busy; call again".to_owned()),
            (None, "kept: 1 dedup keys: somebody else has them in hand; call again".to_owned()),
        ]
    );
    assert_eq!(stage.count(keys).await, 1);
    first.rollback().await.expect("thinks better of it");
    assert_eq!(called(&stage.sql, "").await, [(Some(ids[1]), "erased".to_owned())]);
    assert_eq!(stage.count(keys).await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.erased_key").await, 2);
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
    // A key alone, in somebody's hand.
    stage.run("INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at) VALUES ('', '3:zebedee@example.org', '', gen_random_uuid(), now() + interval '1 hour')").await;
    let holds = other.transaction().await.expect("begins");
    holds.query_one("SELECT FROM outbox.dedup_key FOR UPDATE", &[]).await.expect("locks");
    assert_eq!(
        called(&stage.sql, "").await,
        [(None, "kept: 1 dedup keys: somebody else has them in hand; call again".to_owned())]
    );
    holds.rollback().await.expect("lets go");
    let told = "erased: 1 dedup keys, of which hashes stay for their time".to_owned();
    assert_eq!(called(&stage.sql, "").await, [(None, told)]);
}

/// Somebody has deleted from the queue: what no hash leads to is found all the same.
#[tokio::test]
async fn an_address_leaves_messages_that_have_no_delivery() {
    let stage = Stage::set().await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, payload) VALUES
        ('note', '{zebedee@example.org}', '{}'), ('note', '{a@example.org,zebedee@example.org}', '{}'), ('note', '{zebedee@example.org}', '{}') RETURNING id";
    let ids: Vec<Uuid> = stage.sql.query(insert, &[]).await.expect("enqueues").iter().map(|row| row.get(0)).collect();
    // All of the first, one's own of the second, and of the third, which is older than seven days.
    stage.run(&format!("SELECT outbox.cancel('{}', 'x')", ids[1])).await;
    stage.run(&format!("DELETE FROM outbox.queue; DELETE FROM outbox.done WHERE recipient_no = 2; UPDATE outbox.message SET id = '01900000-0000-7000-8000-000000000001' WHERE id = '{}'", ids[2])).await;
    let old: Uuid = "01900000-0000-7000-8000-000000000001".parse().expect("an id");
    let found = "SELECT string_agg(message_id::text, ' ') FROM outbox.find_unqueued()";
    assert_eq!(stage.text(found).await, ids[0].to_string());
    let foretold = stage.sql.query(
        "SELECT message_id, result FROM outbox.would_erase('Zebedee@example.org') WHERE message_id IS NOT NULL",
        &[],
    );
    let foretold: Vec<(Uuid, String)> =
        foretold.await.expect("says").iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(foretold, [(ids[0], "erased".to_owned())]);
    assert_eq!(called(&stage.sql, "").await, [(Some(ids[0]), "erased".to_owned())]);
    for (function, reason) in [("would_erase_mentions", ""), ("erase_mentions", ", 'x'")] {
        let sql = format!("SELECT message_id, result FROM outbox.{function}('zebedee@example.org'{reason})");
        let rows = stage.sql.query(&sql, &[]).await.expect("erases");
        let rows: Vec<(Uuid, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(rows, [(old, "erased".to_owned()), (ids[1], "erased".to_owned())], "{function}");
    }
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
    assert_eq!(stage.count("SELECT count(*) FROM outbox.find_unqueued()").await, 0, "nothing is left to do");
    assert_eq!(stage.count(&format!("SELECT count(*) FROM outbox.find_unqueued(id => '{}')", ids[0])).await, 1);
}

/// Who is another recipient of such a message waits for nobody.
#[tokio::test]
async fn an_address_leaves_a_message_of_which_another_delivery_is_missing() {
    let stage = Stage::set().await;
    stage.run("SELECT outbox.enqueue('note', '{zebedee@example.org,b@example.org}', '{}')").await;
    stage
        .run("SELECT outbox.cancel(id, 'x') FROM outbox.message; DELETE FROM outbox.done WHERE recipient_no = 2")
        .await;
    let all = called(&stage.sql, "").await;
    assert_eq!(all.iter().map(|(_, result)| result.as_str()).collect::<Vec<_>>(), ["erased"]);
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
}
