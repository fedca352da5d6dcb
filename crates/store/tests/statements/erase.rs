//! Erasing an address: no table names it any more, what it was sent can still be proved, nothing that is under way is
//! touched, and nothing of it is ever sent again.

use std::time::Duration;

use hapax_core::{DeliveryKey, MessageId, Outcome, Phase, Reply, Token};
use hapax_store::{Collecting, Kind, LateAnswer, Verdict};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::common::{Attempt, Stage, accepted, lock, refused, unknown};

/// Part of the address: so much of it is looked for, in every table.
pub(super) const LOCAL: &str = "zebedee";
const ERASE: &str = "SELECT message_id, result FROM outbox.erase('Zebedee <Zebedee@Example.org>', 'ticket 4711'";

/// One to Zebedee, with further columns.
async fn to_him(stage: &Stage, columns: &str, values: &str) -> DeliveryKey {
    let sql = format!(
        "INSERT INTO outbox.notification (kind, recipients, {columns})
         VALUES ('note', ARRAY['\"Mr Zebedee\" <Zebedee@example.ORG>'], {values}) RETURNING id"
    );
    let row = stage.sql.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: 1 }
}

pub(super) async fn plain(stage: &Stage) -> DeliveryKey {
    to_him(stage, "payload", "'{\"name\": \"Zebedee\"}'").await
}

pub(super) async fn called(client: &Client, more: &str) -> Vec<(Option<Uuid>, String)> {
    let rows = client.query(&format!("{ERASE}{more})"), &[]).await.expect("erases");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What became of one message in a call for all.
async fn erase(stage: &Stage, key: DeliveryKey) -> String {
    let all = called(&stage.sql, "").await;
    let own = all.iter().filter(|(id, _)| *id == Some(key.message_id.0)).map(|(_, result)| result.as_str());
    own.collect::<Vec<_>>().join(" and ")
}

/// Tables of the schema in which a row, as text, has this in it: also in what is bytea, which text shows in hex digits.
pub(super) async fn tables_with(stage: &Stage, words: &str) -> Vec<String> {
    let tables = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition ORDER BY 1";
    let mut found = Vec::new();
    let tables = stage.sql.query(tables, &[]).await.expect("reads");
    assert!(tables.len() > 25, "all of them");
    for table in tables.iter().map(|row| row.get::<_, &str>(0)) {
        let sql = format!(
            "SELECT count(*) FROM outbox.{table} t WHERE strpos(lower(t::text), lower($1)) > 0
             OR strpos(lower(regexp_replace(t::text, '[^0-9a-f]', '', 'g')), encode(convert_to(lower($1), 'UTF8'), 'hex')) > 0
             OR strpos(t::text, encode(convert_to($1, 'UTF8'), 'hex')) > 0"
        );
        if stage.sql.query_one(&sql, &[&words]).await.expect("searches").get::<_, i64>(0) > 0 {
            found.push(table.to_owned());
        }
    }
    found
}

pub(super) async fn sqlstate(client: &Client, sql: &str) -> String {
    let error = client.query(sql, &[]).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    let all = format!("{error:?}").to_lowercase();
    assert!(!all.contains(LOCAL), "{all}");
    error.code().code().to_owned()
}

pub(super) async fn end(stage: &Stage, key: DeliveryKey, end: (Outcome, Verdict)) -> Attempt {
    let attempt = stage.send(key).await;
    assert!(stage.settle(&attempt, end).await);
    attempt
}

pub(super) fn took_it() -> (Outcome, Verdict) {
    (
        Outcome::Accepted { reply: Reply::new(250, "<zebedee@EXAMPLE.org> mailbox Zebedee, queued as 4F2A") },
        Verdict::Sent,
    )
}

fn knows_him_not() -> (Outcome, Verdict) {
    let reply = Reply::new(550, "5.1.1 Zebedee: no such user (zebedee=example.org)");
    let verdict = Verdict::Failed("refused: 550 5.1.1 Zebedee: no such user".into());
    (Outcome::Refused { permanent: true, phase: Phase::Rcpt, reply }, verdict)
}

#[tokio::test]
async fn no_table_names_an_erased_address_and_what_it_was_sent_can_be_proved() {
    let stage = Stage::set().await;
    let sent = to_him(
        &stage,
        "payload, dedup_key, reply_to",
        "'{\"a\": \"Zebedee\"}', 'welcome:zebedee@example.org', 'Zebedee@example.org'",
    )
    .await;
    end(&stage, sent, took_it()).await;
    let failed = to_him(&stage, "subject, body_text, body_html, headers, attachments, sender",
        "'Dear Zebedee', 'zebedee', '<p>zebedee', '{\"X-Who\": \"zebedee\"}', '[{\"filename\": \"zebedee.txt\", \"content_type\": \"text/plain\", \"content_base64\": \"emViZWRlZQ==\"}]', 'Zebedee <zebedee@example.org>'").await;
    end(&stage, failed, knows_him_not()).await;
    let raw = to_him(&stage, "raw_message", "convert_to(E'From: a@example.org\\r\\nTo: zebedee@example.org\\r\\nDate: Fri, 27 Nov 2026 10:00:00 +0000\\r\\nMessage-ID: <1@example.org>\\r\\n\\r\\nzebedee\\r\\n', 'UTF8')").await;
    end(&stage, raw, accepted()).await;
    let waiting = to_him(
        &stage,
        "payload, ordering_key, not_before",
        "'{}', 'user:zebedee@example.org', now() + interval '1 day'",
    )
    .await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, cc, payload) VALUES
        ('note', '{ozebedee@example.org}', '{}', '{}'), ('note', '{a@example.org}', '{b@example.org,zebedee@example.org}', '{}') RETURNING id";
    let others = stage.sql.query(insert, &[]).await.expect("enqueues");
    let other = DeliveryKey { message_id: MessageId(others[0].get(0)), recipient_no: 1 };
    let copied = DeliveryKey { message_id: MessageId(others[1].get(0)), recipient_no: 3 };
    stage.run(&format!("SELECT outbox.cancel('{}', 'zebedee@example.org wrote it')", other.message_id)).await;
    stage.run(&format!("SELECT outbox.cancel('{}', 'for zebedee@example.org')", copied.message_id)).await;
    stage
        .run(
            "SELECT outbox.suppress('zebedee@example.org', note => 'Zebedee asked', keep_address => true);
        SELECT outbox.suppress('x@example.org', note => 'so did zebedee@example.org');
        SELECT outbox.pause('zebedee@example.org loops', address => 'zebedee@example.org')",
        )
        .await;
    let named = tables_with(&stage, LOCAL).await;
    let expected = ["attempt", "audit", "dedup_key", "done", "message", "ordering", "pause", "queue", "suppression"];
    assert_eq!(named, expected, "the search finds what there is");

    let results = called(&stage.sql, "").await;
    let of = |key: DeliveryKey| {
        results
            .iter()
            .filter(|(id, _)| *id == Some(key.message_id.0))
            .map(|(_, result)| result.as_str())
            .collect::<Vec<_>>()
    };
    for key in [sent, failed, raw, copied] {
        assert_eq!(of(key), ["erased"], "{results:?}");
    }
    assert_eq!(of(waiting), ["cancelled, erased"]);
    assert!(of(other).is_empty(), "ends like his, and is another's");
    let elsewhere: Vec<&str> =
        results.iter().filter(|(id, _)| id.is_none()).map(|(_, result)| result.as_str()).collect();
    assert_eq!(
        elsewhere,
        [
            "erased: in the suppression list, where a hash of it stays: nothing is sent to it",
            "erased: in notes of the suppression list",
            "erased: in a pause, which holds on by a hash of it until outbox.resume()",
            "erased: in reasons of the audit",
            "erased: in reasons of 1 other deliveries",
            "erased: ordering keys"
        ],
        "{results:?}"
    );
    // The other one's own name is all that is left.
    assert_eq!(tables_with(&stage, LOCAL).await, ["message"]);
    stage
        .run(&format!("UPDATE outbox.message SET recipients = '{{x@example.org}}' WHERE id = '{}'", other.message_id))
        .await;
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
    assert_eq!(tables_with(&stage, "emViZWRlZQ").await, Vec::<String>::new());
    assert!(called(&stage.sql, "").await.is_empty(), "nothing is left to do");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.find_deliveries('zebedee@example.org')").await, 0);

    let proof = "SELECT string_agg(concat_ws(' ', state, evidence, server, reply, (finished_at IS NOT NULL AND erased_at IS NOT NULL)::text), '; ' ORDER BY message_id)
        FROM outbox.erased('ZEBEDEE@example.org')";
    assert_eq!(
        stage.text(proof).await,
        "sent reply mx.example.org 250 <***> mailbox ***, queued as 4F2A true; failed mx.example.org 550 5.1.1 ***: no such user (***=example.org) true; \
        sent reply mx.example.org 250 2.0.0 queued as 1 true; cancelled true; cancelled true"
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.erased('nobody@example.org')").await, 0);
    let name = "SELECT count(DISTINCT d.recipient) FROM outbox.deliveries d JOIN outbox.erased('zebedee@example.org') USING (message_id, recipient_no) WHERE d.recipient LIKE '%@erased.invalid'";
    assert_eq!(stage.count(name).await, 1);
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.find_suspected_duplicates()").await,
        0,
        "nothing is like nothing"
    );
    let untouched =
        format!("SELECT count(*) FROM outbox.message WHERE id = '{}' AND payload IS NOT NULL", other.message_id);
    assert_eq!(stage.count(&untouched).await, 1);
    // He is still on the list, and paused.
    let again = plain(&stage).await;
    let listed = "SELECT count(*) FROM outbox.find_suppressions('zebedee@example.org')";
    assert_eq!(stage.count(listed).await, 1);
    assert!(
        stage
            .text(&format!("SELECT reason FROM outbox.deliveries WHERE message_id = '{}'", again.message_id))
            .await
            .starts_with("paused")
    );
    assert!(stage.text("SELECT outbox.resume('over', address => 'zebedee@example.org')").await.starts_with("resumed"));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn what_is_under_way_or_in_doubt_or_has_others_is_kept_until_it_has_ended() {
    let stage = Stage::set().await;
    let flying = plain(&stage).await;
    let flight = stage.send(flying).await;
    assert_eq!(erase(&stage, flying).await, "kept: in flight; call again");
    assert!(stage.settle(&flight, unknown()).await);
    assert_eq!(erase(&stage, flying).await, "kept: in doubt; decide it with outbox.resolve(), then call again");
    assert_eq!(stage.state(flying).await, "in_doubt");
    assert_eq!(stage.resolve(flying, "sent", None, false).await, "sent");
    assert_eq!(erase(&stage, flying).await, "erased");
    // The reply of an attempt that a relay had marked comes late, and names him.
    assert_eq!(stage.late(&flight, took_it()).await, LateAnswer::Settled);
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
    assert_eq!(stage.done(flying).await.map(|done| (done.state, done.open_doubts)), Some(("sent".into(), 0)));

    // Claimed: its relay loses it, and what the server has said of its recipient before.
    let claimed = plain(&stage).await;
    let attempt = stage.attempt(claimed).await;
    assert_eq!(erase(&stage, claimed).await, "cancelled, erased");
    stage.late(&attempt, knows_him_not()).await;
    assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());

    // A vanished relay may still have it.
    let lost = plain(&stage).await;
    let attempt = stage.send(lost).await;
    stage.store.mark_in_doubt(&[stage.store.incarnation()], Duration::from_secs(900)).await.expect("marks");
    assert_eq!(stage.resolve(lost, "failed", Some(attempt.token), true).await, "failed");
    assert_eq!(erase(&stage, lost).await, "kept: an attempt of it may still be alive; call again");
    stage.late(&attempt, took_it()).await;
    assert_eq!(erase(&stage, lost).await, "erased");
    assert_eq!(stage.state(lost).await, "sent");

    // Others need the content.
    let insert = "INSERT INTO outbox.notification (kind, recipients, bcc, payload) VALUES ('note', '{a@example.org,zebedee@example.org}', '{b@example.org}', '{}') RETURNING id";
    let id: Uuid = stage.sql.query_one(insert, &[]).await.expect("enqueues").get(0);
    let [first, his, third] = [1, 2, 3].map(|recipient_no| DeliveryKey { message_id: MessageId(id), recipient_no });
    assert_eq!(
        erase(&stage, his).await,
        "cancelled, kept: 2 other deliveries have of its message not ended; call again then"
    );
    assert_eq!(stage.state(his).await, "cancelled");
    let claimed = stage.claim().await;
    let mut attempts: Vec<_> =
        claimed.iter().map(|one| Attempt { key: one.key, lease: one.lease, token: Token::fresh() }).collect();
    attempts.sort_by_key(|attempt| attempt.key.recipient_no);
    assert_eq!(attempts.iter().map(|attempt| attempt.key).collect::<Vec<_>>(), [first, third]);
    stage.intend(&attempts[0]).await;
    assert!(stage.settle(&attempts[0], accepted()).await);
    assert_eq!(erase(&stage, his).await, "kept: another delivery has of its message not ended; call again then");
    stage.intend(&attempts[1]).await;
    assert!(stage.settle(&attempts[1], refused()).await);
    assert_eq!(erase(&stage, his).await, "erased");
    let left = format!(
        "SELECT concat_ws(' ', m.recipients[1], m.bcc[1], outbox.is_content_gone(m.id)) FROM outbox.message m WHERE m.id = '{id}'"
    );
    assert_eq!(stage.text(&left).await, "a@example.org b@example.org t");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn what_is_gone_is_never_sent_again_and_no_error_names_the_address() {
    let stage = Stage::set().await;
    let failed = plain(&stage).await;
    end(&stage, failed, refused()).await;
    let assumed = plain(&stage).await;
    let attempt = end(&stage, assumed, unknown()).await;
    assert_eq!(stage.resolve(assumed, "sent", None, false).await, "sent");
    called(&stage.sql, "").await;
    let id = failed.message_id;
    assert_eq!(sqlstate(&stage.sql, &format!("SELECT outbox.retry('{id}')")).await, "22H76");
    assert_eq!(sqlstate(&stage.sql, &format!("SELECT outbox.retry('{id}', 1, 'x', true)")).await, "22H76");
    assert_eq!(sqlstate(&stage.sql, &format!("SELECT outbox.send_again('{id}', 'x')")).await, "22H76");
    assert_eq!(
        sqlstate(&stage.sql, &format!("SELECT outbox.send_again('{}', 'x', 1)", assumed.message_id)).await,
        "22H76"
    );
    assert_eq!(stage.retry(assumed, true).await, "nothing to retry: it is sent");
    // Nor is what stands for him listed, should the relay tell of a hard bounce afterwards.
    let bounced = plain(&stage).await;
    let bounce = end(&stage, bounced, knows_him_not()).await;
    called(&stage.sql, "").await;
    let entered =
        format!("SELECT outbox.suppress_bounced('{}', 1::int2, '{}', 86400, 100)", bounced.message_id, bounce.token);
    assert_eq!(stage.text(&entered).await, "not a hard bounce");
    // It was decided as sent, and was not: there is nothing to hold any more.
    stage.evidence(&attempt, "not_sent").await;
    let done = stage.done(assumed).await.expect("stays");
    assert_eq!((done.state.as_str(), done.open_doubts), ("failed", 0));
    assert!(done.reason.is_some_and(|reason| reason.ends_with("; its content is gone")));
    for (call, code) in [
        ("SELECT outbox.erase('zebedee', 'x')", "22H73"),
        ("SELECT outbox.erase(NULL, 'x')", "22H73"),
        ("SELECT outbox.erase('zebedee@example.org', ' ')", "22H50"),
        ("SELECT outbox.erase('zebedee@example.org', NULL)", "22H50"),
        ("SELECT outbox.erase('zebedee@example.org', 'asked by Zebedee@example.org.')", "22H75"),
        ("SELECT outbox.erased('zebedee')", "22H73"),
    ] {
        assert_eq!(sqlstate(&stage.sql, call).await, code, "{call}");
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_dedup_key_that_named_the_address_is_still_known_to_a_producer_that_tries_again() {
    let stage = Stage::set().await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, payload, tenant, dedup_key, dedup_ttl) VALUES ('note', '{zebedee@example.org}', '{\"no\": 1}', 'acme', 'hi:zebedee@example.org', '1 hour') RETURNING id";
    let enqueue = "SELECT outbox.enqueue('note', '{zebedee@example.org}', '{\"no\": 1}', tenant => 'acme', dedup_key => 'hi:zebedee@example.org')";
    let many = "SELECT id FROM outbox.enqueue_many('[{\"kind\": \"note\", \"recipients\": [\"zebedee@example.org\"], \"payload\": {\"no\": 1}, \"tenant\": \"acme\", \"dedup_key\": \"hi:zebedee@example.org\"}]')";
    let first: Uuid = stage.sql.query_one(insert, &[]).await.expect("enqueues").get(0);
    called(&stage.sql, "").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.dedup_key").await, 0);
    for repeat in [insert, enqueue, many] {
        assert_eq!(stage.sql.query_one(repeat, &[]).await.expect("repeats").get::<_, Uuid>(0), first, "{repeat}");
    }
    assert_eq!(sqlstate(&stage.sql, &insert.replace("\"no\": 1", "\"no\": 2")).await, "23H01");
    assert_eq!(sqlstate(&stage.sql, &enqueue.replace("\"no\": 1", "\"no\": 2")).await, "23H01");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 1);
    // Another tenant's is another key.
    stage.sql.query_one(&enqueue.replace("acme", "other"), &[]).await.expect("enqueues");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 1);
    // Its time passes.
    stage.run("UPDATE outbox.erased_key SET expires_at = now() - interval '1 second'").await;
    assert_ne!(stage.sql.query_one(insert, &[]).await.expect("enqueues").get::<_, Uuid>(0), first);
    stage.store.maintain(None).await.expect("maintains");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.erased_key").await, 0);
}

#[tokio::test]
async fn it_waits_for_nobody_and_who_waits_for_it_sees_what_has_become_of_it() {
    let stage = Stage::set().await;
    let (other, _driver) = stage.session().await;
    let ended = plain(&stage).await;
    end(&stage, ended, refused()).await;
    let told = plain(&stage).await;
    end(&stage, told, refused()).await;
    let held = plain(&stage).await;
    let attempt = stage.attempt(held).await;
    // The other delivery of it is being decided.
    let insert = "INSERT INTO outbox.notification (kind, recipients, payload) VALUES ('note', '{a@example.org,zebedee@example.org}', '{}') RETURNING id";
    let shared: Uuid = stage.sql.query_one(insert, &[]).await.expect("enqueues").get(0);
    stage.run(&format!("SELECT outbox.cancel('{shared}', 'x')")).await;
    lock(&other, held).await;
    let select = "SELECT FROM outbox.done WHERE message_id = $1 AND recipient_no = 1 FOR UPDATE";
    for id in [shared, ended.message_id.0] {
        other.query_one(select, &[&id]).await.expect("locks");
    }
    let results = called(&stage.sql, "").await;
    let result = |key: DeliveryKey| {
        results.iter().find(|(id, _)| *id == Some(key.message_id.0)).map(|(_, result)| result.as_str())
    };
    assert_eq!(
        [result(held), result(ended), result(told)],
        [Some("kept: busy; call again"), Some("kept: busy; call again"), Some("erased")]
    );
    assert!(results.contains(&(Some(shared), "kept: busy; call again".to_owned())), "{results:?}");
    other.batch_execute("ROLLBACK").await.expect("ends");

    // Uncommitted here, waited for there.
    let again = plain(&stage).await;
    end(&stage, again, refused()).await;
    let sending = plain(&stage).await;
    let flight = stage.send(sending).await;
    stage.run("BEGIN").await;
    called(&stage.sql, "").await;
    let retry = format!("SELECT outbox.retry('{}', reason => 'x')", ended.message_id);
    let copy = format!("SELECT outbox.send_again('{}', 'x')", again.message_id);
    let (third, _driver) = stage.session().await;
    let (fourth, _driver) = stage.session().await;
    let watch = async {
        // What is in flight was not locked: its relay goes on.
        let settlement = crate::common::settlement(&flight, accepted());
        assert_eq!(stage.store.settle(std::slice::from_ref(&settlement)).await.expect("settles"), [true]);
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        hapax_testkit::eventually(crate::common::DEADLINE, async || {
            let blocked: i64 = fourth.query_one(sql, &[]).await.expect("reads").get(0);
            (blocked >= 2).then_some(()).ok_or(format!("{blocked} wait"))
        })
        .await;
        stage.run("COMMIT").await;
    };
    let (retried, copied, ()) = tokio::join!(sqlstate(&other, &retry), sqlstate(&third, &copy), watch);
    assert_eq!([retried, copied], ["22H76", "22H76"]);
    assert_ne!(stage.intend(&attempt).await, hapax_store::IntendAnswer::Granted, "cancelled behind its relay's back");
    assert_eq!(erase(&stage, sending).await, "erased");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_digest_and_what_it_was_made_of_are_erased_together() {
    for in_flight in [false, true] {
        let stage = Stage::set().await;
        let collect = Collecting { within: Duration::from_secs(900), max: 50, as_kind: None };
        stage
            .store
            .register_kinds(&[Kind { name: "note".into(), collect: Some(collect), ..Kind::default() }])
            .await
            .expect("registers");
        let (first, second) = (plain(&stage).await, plain(&stage).await);
        let gather = async || {
            let claimed: Vec<_> = stage.claim().await.iter().map(|one| (one.key, one.lease)).collect();
            stage.store.collect(&claimed).await.expect("gathers")
        };
        gather().await;
        let third = plain(&stage).await;
        stage.run("UPDATE outbox.digest_group SET closes_at = now() - interval '1 second'; UPDATE outbox.queue SET due_at = now() - interval '1 second'").await;
        let digest = DeliveryKey { message_id: gather().await.made[0], recipient_no: 1 };
        if in_flight {
            let flight = stage.send(digest).await;
            let waits = format!("kept: in digest {}, which has not ended; call again", digest.message_id);
            assert_eq!(erase(&stage, first).await, waits);
            assert_eq!(erase(&stage, second).await, waits);
            assert!(stage.settle(&flight, took_it()).await);
        }
        let (ended, members) = if in_flight { ("erased", "sent") } else { ("cancelled, erased", "cancelled") };
        let results = called(&stage.sql, "").await;
        let result = |key: DeliveryKey| {
            results.iter().find(|(id, _)| *id == Some(key.message_id.0)).map(|(_, result)| result.as_str())
        };
        assert_eq!([digest, first, second].map(result), [Some(ended), Some("erased"), Some("erased")], "{results:?}");
        for member in [first, second, digest] {
            assert_eq!(stage.state(member).await, members);
        }
        erase(&stage, third).await;
        stage.store.follow_digests(true).await.expect("follows");
        assert_eq!(tables_with(&stage, LOCAL).await, Vec::<String>::new());
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn it_works_in_batches_and_what_is_kept_keeps_nobody_waiting() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        let key = plain(&stage).await;
        stage.send(key).await;
    }
    for _ in 0..5 {
        plain(&stage).await;
    }
    stage.run("SELECT outbox.suppress('zebedee@example.org')").await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        let results = called(&stage.sql, ", 2").await;
        let done = results.iter().filter(|(id, result)| id.is_some() && !result.starts_with("kept:")).count();
        calls.push((done, results.iter().filter(|(id, _)| id.is_none()).count()));
    }
    assert_eq!(calls, [(2, 0), (2, 0), (1, 1), (0, 0)]);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.erasure").await, 5);
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.audit WHERE action = 'erase' AND reason = 'ticket 4711'").await,
        6
    );
}

#[tokio::test]
async fn proofs_are_of_this_outbox_alone_and_go_with_the_history() {
    let stage = Stage::set().await;
    let proof = "SELECT encode(outbox.proof_of('zebedee@example.org'), 'hex')";
    let plain_hash = "SELECT encode(sha256('zebedee@example.org'), 'hex')";
    assert_ne!(stage.text(proof).await, stage.text(plain_hash).await);
    // RFC 4231, test case 2.
    let vector = "UPDATE outbox.erasure_key SET inner_pad = (SELECT decode(string_agg(lpad(to_hex(get_byte(k, i) # 54), 2, '0'), '' ORDER BY i), 'hex') FROM generate_series(0, 63) i),
        outer_pad = (SELECT decode(string_agg(lpad(to_hex(get_byte(k, i) # 92), 2, '0'), '' ORDER BY i), 'hex') FROM generate_series(0, 63) i)
        FROM (SELECT 'Jefe'::bytea || decode(repeat('00', 60), 'hex') AS k) k";
    let pads = "SELECT encode(inner_pad || outer_pad, 'hex') FROM outbox.erasure_key";
    let before = stage.text(pads).await;
    assert_eq!(before.len(), 256);
    let (head, tail) = (&before[64..128], &before[192..]);
    assert_eq!((head, tail), ("36".repeat(32).as_str(), "5c".repeat(32).as_str()), "a key of 32 bytes");
    stage.run(vector).await;
    assert_eq!(
        stage.text("SELECT encode(outbox.proof_of('what do ya want for nothing?'), 'hex')").await,
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    let key = plain(&stage).await;
    end(&stage, key, accepted()).await;
    assert_eq!(erase(&stage, key).await, "erased");
    stage.run("SELECT outbox.drop_partitions_before(now() + interval '30 days')").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.message").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.erasure").await, 0);
}
