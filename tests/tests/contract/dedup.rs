//! Dedup keys: the same event twice is one message, another event under its key is an error, never a silent drop.

use std::time::Duration;

use hapax_testkit::eventually;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::support::{Outbox, Refusal, enqueue};

const SAME: &str = ", payload => '{\"order_id\": 42}', dedup_key => 'order-42'";
const OTHER: &str = ", payload => '{\"order_id\": 43}', dedup_key => 'order-42'";

#[tokio::test]
async fn the_same_content_returns_the_first_id() {
    let outbox = Outbox::new().await;
    let first = outbox.enqueue(SAME).await;
    // Trace, priority, times and the order of keys in JSON are not content.
    for same in [
        SAME,
        ", payload => '{ \"order_id\" :42}', dedup_key => 'order-42'",
        ", payload => '{\"order_id\": 42}'::jsonb, dedup_key => 'order-42'",
        ", payload => '{\"order_id\": 42}', dedup_key => 'order-42', priority => 'urgent', not_before => now() + interval '1 day', on_doubt => 'resend', \
         expires_at => now() + interval '2 days', traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', dedup_ttl => '1 day'",
    ] {
        assert_eq!(outbox.enqueue(same).await, first, "{same}");
    }
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
}

#[tokio::test]
async fn rc32_other_content_is_an_error_that_names_the_first_message() {
    let outbox = Outbox::new().await;
    let good = ", subject => 'S', body_text => 'T', body_html => 'H', sender => 's@example.org', reply_to => 'r@example.org', cc => '{c@example.org}', \
                bcc => '{b@example.org}', headers => '{\"X-A\": \"1\"}', attachments => '[{\"filename\": \"a\", \"content_base64\": \"\"}]', dedup_key => 'k'";
    let first = outbox.enqueue(good).await;
    for (from, to) in [
        ("'S'", "'s'"),
        ("'T'", "'t'"),
        ("'H'", "NULL"),
        ("s@", "ss@"),
        ("r@", "rr@"),
        ("c@", "cc@"),
        ("b@", "bb@"),
        ("\"1\"", "\"2\""),
        ("\"a\"", "\"b\""),
        // What moves from one field to the next is other content, too.
        ("body_text => 'T', body_html => 'H'", "body_text => 'TH'"),
        ("cc => '{c@example.org}', bcc => '{b@example.org}'", "cc => '{c@example.org,b@example.org}'"),
    ] {
        let arguments = good.replace(from, to);
        assert_ne!(arguments, good, "{from}");
        let error = enqueue(&outbox.db, &arguments).await.expect_err(&arguments);
        let said = Refusal::of(&error);
        assert_eq!(
            (said.code.as_str(), said.message.as_str(), said.column.as_str()),
            ("23H01", "outbox.enqueue: dedup_key: was used for other content", "dedup_key")
        );
        let detail = error.as_db_error().unwrap().detail().unwrap_or_default().to_owned();
        assert!(detail.starts_with(&format!("first message: {first}, remembered until ")), "{detail}");
        assert!(said.hint.contains("outbox.release_key()"), "{}", said.hint);
    }
    let other_kind = "SELECT outbox.enqueue('farewell', '{a@example.org}', '{\"order_id\": 42}', dedup_key => 'k')";
    assert_eq!(Refusal::of(&outbox.db.query(other_kind, &[]).await.unwrap_err()).code, "23H01");
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
}

#[tokio::test]
async fn settings_do_not_change_what_the_same_content_is() {
    let outbox = Outbox::new().await;
    let raw = r", raw_message => 'Subject: x\012\012\001\377', dedup_key => 'raw'";
    let first = outbox.enqueue(raw).await;
    for setting in ["bytea_output = escape", "extra_float_digits = 0", "DateStyle = 'German'", "search_path = public"] {
        outbox.db.batch_execute(&format!("SET {setting}")).await.unwrap();
        assert_eq!(outbox.enqueue(raw).await, first, "{setting}");
    }
}

#[tokio::test]
async fn keys_are_scoped_by_tenant_and_forgotten_after_their_time() {
    let outbox = Outbox::new().await;
    let first = outbox.enqueue(SAME).await;
    let other = outbox.enqueue(&format!("{OTHER}, tenant => 'corp'")).await;
    assert_ne!(first, other);
    let remembered =
        "SELECT round(extract(epoch FROM expires_at - now()) / 86400) FROM outbox.dedup_key WHERE tenant = ''";
    assert_eq!(outbox.texts(remembered).await, ["30"]);
    outbox.db.batch_execute("UPDATE outbox.dedup_key SET expires_at = now() WHERE tenant = ''").await.unwrap();
    let third = outbox.enqueue(&format!("{OTHER}, dedup_ttl => '3 days'")).await;
    assert_ne!(first, third, "a key whose time has passed is free");
    assert_eq!(outbox.texts(remembered).await, ["3"]);
}

/// The second session, on its way through `enqueue`; returns when it waits for the first.
async fn second_waits(
    outbox: &Outbox,
    session: Client,
    arguments: &'static str,
) -> JoinHandle<(Client, Result<Uuid, Error>)> {
    let pid = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let second = tokio::spawn(async move {
        let answer = enqueue(&session, arguments).await;
        (session, answer)
    });
    let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
    eventually(Duration::from_secs(20), async || outbox.number(&waiting).await == 1).await;
    second
}

#[tokio::test]
async fn a_second_session_waits_and_gets_the_first_id_after_the_commit() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    let first = outbox.enqueue(SAME).await;
    let observer = Outbox { name: outbox.name.clone(), db: outbox.session().await };
    let second = second_waits(&observer, outbox.session().await, SAME).await;
    outbox.db.batch_execute("COMMIT").await.unwrap();
    assert_eq!(second.await.unwrap().1.unwrap(), first);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
}

#[tokio::test]
async fn a_second_session_with_other_content_gets_the_conflict_after_the_commit() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    outbox.enqueue(SAME).await;
    let observer = Outbox { name: outbox.name.clone(), db: outbox.session().await };
    let second = second_waits(&observer, outbox.session().await, OTHER).await;
    outbox.db.batch_execute("COMMIT").await.unwrap();
    assert_eq!(Refusal::of(&second.await.unwrap().1.unwrap_err()).code, "23H01");
}

#[tokio::test]
async fn a_rollback_frees_the_key_for_whoever_waits() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    let first = outbox.enqueue(SAME).await;
    let observer = Outbox { name: outbox.name.clone(), db: outbox.session().await };
    let second = second_waits(&observer, outbox.session().await, OTHER).await;
    outbox.db.batch_execute("ROLLBACK").await.unwrap();
    let second = second.await.unwrap().1.unwrap();
    assert_ne!(second, first);
    assert_eq!(outbox.texts("SELECT id FROM outbox.message").await, [second.to_string()]);
}

#[tokio::test]
async fn a_savepoint_rolled_back_frees_the_key_in_its_own_transaction() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    let first = outbox.enqueue(SAME).await;
    assert_eq!(outbox.enqueue(SAME).await, first, "twice in one transaction");
    outbox.db.batch_execute("ROLLBACK; BEGIN; SAVEPOINT s").await.unwrap();
    outbox.enqueue(SAME).await;
    outbox.db.batch_execute("ROLLBACK TO s").await.unwrap();
    outbox.enqueue(OTHER).await;
    outbox.db.batch_execute("COMMIT").await.unwrap();
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.message").await, 1);
}

#[tokio::test]
async fn repeatable_read_gets_a_serialization_failure() {
    let outbox = Outbox::new().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        outbox.db.batch_execute("DELETE FROM outbox.dedup_key; BEGIN").await.unwrap();
        outbox.enqueue(SAME).await;
        let late = outbox.session().await;
        late.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")).await.unwrap();
        let observer = Outbox { name: outbox.name.clone(), db: outbox.session().await };
        let second = second_waits(&observer, late, SAME).await;
        outbox.db.batch_execute("COMMIT").await.unwrap();
        let (late, answer) = second.await.unwrap();
        assert_eq!(Refusal::of(&answer.unwrap_err()).code, "40001", "{level}");
        late.batch_execute("ROLLBACK").await.unwrap();
        enqueue(&late, SAME).await.expect("the retry succeeds");
    }
}

#[tokio::test]
async fn repeats_do_not_block_each_other() {
    let outbox = Outbox::new().await;
    let first = outbox.enqueue(SAME).await;
    outbox.db.batch_execute("BEGIN").await.unwrap();
    assert_eq!(outbox.enqueue(SAME).await, first);
    let other = outbox.session().await;
    other.batch_execute("SET lock_timeout = '1ms'").await.unwrap();
    assert_eq!(enqueue(&other, SAME).await.expect("nobody waits"), first);
}

#[tokio::test]
async fn rc26_ten_producers_of_one_event_make_one_message() {
    let outbox = Outbox::new().await;
    let mut producers = Vec::new();
    for _ in 0..10 {
        let session = outbox.session().await;
        producers.push(tokio::spawn(async move { enqueue(&session, SAME).await.unwrap() }));
    }
    let mut ids = Vec::new();
    for producer in producers {
        ids.push(producer.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(outbox.number("SELECT count(*) FROM outbox.queue").await, 1);
}

#[tokio::test]
async fn rc27_a_key_is_released_only_when_its_message_cannot_have_arrived() {
    let outbox = Outbox::new().await;
    let release = "SELECT outbox.release_key('order-42')";
    assert_eq!(outbox.texts(release).await, ["false"], "no such key");
    let id = outbox.enqueue(SAME).await;
    let error = outbox.db.query(release, &[]).await.unwrap_err();
    assert_eq!(
        Refusal::of(&error),
        Refusal {
            code: "23H02".into(),
            message: "outbox.release_key: dedup_key: cannot be released, its message may still arrive or has arrived".into(),
            column: "dedup_key".into(),
            hint: "cancel it first: SELECT * FROM outbox.cancel(id, reason); an operator may use outbox.force_release_key()".into(),
        }
    );
    assert_eq!(error.as_db_error().unwrap().detail(), Some(format!("message {id} is pending").as_str()));

    let end = |state: &str, doubts: i32| {
        format!(
            "DELETE FROM outbox.queue; DELETE FROM outbox.done; \
             INSERT INTO outbox.done (message_id, recipient_no, state, evidence, open_doubts, lane, address_hash) \
             VALUES ('{id}', 1, '{state}', CASE '{state}' WHEN 'sent' THEN 'reply' END, {doubts}, 1, 0)"
        )
    };
    for (state, doubts, free) in
        [("sent", 0, false), ("failed", 1, false), ("cancelled", 2, false), ("failed", 0, true)]
    {
        outbox.db.batch_execute(&end(state, doubts)).await.unwrap();
        let answer = outbox.db.query_one(release, &[]).await;
        assert_eq!(answer.is_ok(), free, "{state} with {doubts} open doubts: {answer:?}");
    }
    assert_ne!(outbox.enqueue(OTHER).await, id, "the key is free");
    assert_eq!(outbox.texts("SELECT outbox.force_release_key('order-42', 'sent to the wrong person')").await, ["true"]);
    let audit =
        outbox.texts("SELECT concat_ws(', ', action, before, after, reason) FROM outbox.audit ORDER BY id").await;
    assert_eq!(
        audit,
        ["release key, key taken, key free", "release key by force, pending, key free, sent to the wrong person"]
    );
}
