//! Digests: what is gathered goes once, in one message; what is in one ends as it does, whatever comes of it and whenever.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, MessageId};
use hapax_store::{Collecting, Gathered, Kind, Store};
use uuid::Uuid;

use crate::common::{Attempt, Stage, accepted, refused, unknown};

pub(crate) async fn collecting(max: i32) -> Stage {
    let stage = Stage::set().await;
    let collect = Collecting { within: Duration::from_secs(900), max, as_kind: Some("summary".into()) };
    let kinds = [
        Kind { name: "comment".into(), collect: Some(collect), ..Kind::default() },
        Kind { name: "summary".into(), ..Kind::default() },
    ];
    stage.store.register_kinds(&kinds).await.expect("registers");
    stage
}

/// One to `to@example.org`, with a number in its payload and further columns.
async fn comment(stage: &Stage, to: &str, no: i32, more: &str) -> DeliveryKey {
    let (columns, values) = more.split_once('=').unwrap_or_default();
    let comma = if more.is_empty() { "" } else { ", " };
    let sql = format!(
        "INSERT INTO outbox.notification (kind, recipients, payload{comma}{columns})
         VALUES ('comment', ARRAY['{to}@example.org'], '{{\"no\": {no}}}'{comma}{values}) RETURNING id"
    );
    let row = stage.sql.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: 1 }
}

pub(crate) async fn comments(stage: &Stage, to: &str, count: i32) -> Vec<DeliveryKey> {
    let mut keys = Vec::new();
    for no in 1..=count {
        keys.push(comment(stage, to, no, "").await);
    }
    keys
}

async fn claimed(stage: &Stage) -> Vec<(DeliveryKey, Lease)> {
    stage.claim().await.iter().map(|one| (one.key, one.lease)).collect()
}

/// Claims everything that is due and gathers it.
pub(crate) async fn gather(stage: &Stage) -> Gathered {
    let claimed = claimed(stage).await;
    stage.store.collect(&claimed).await.expect("gathers")
}

/// As if the windows had ended.
async fn time_passes(stage: &Stage) {
    stage.run("UPDATE outbox.digest_group SET closes_at = now() - interval '1 minute'").await;
    stage
        .run("UPDATE outbox.queue SET due_at = now() - interval '1 second' WHERE due_at > now() AND parked IS NULL")
        .await;
}

pub(crate) async fn state(stage: &Stage, key: DeliveryKey) -> String {
    let sql = format!(
        "SELECT state || ': ' || coalesce(reason, '') FROM outbox.deliveries WHERE message_id = '{}'",
        key.message_id
    );
    stage.text(&sql).await
}

/// One digest of everything that is gathered.
pub(crate) async fn digest(stage: &Stage) -> DeliveryKey {
    gather(stage).await;
    time_passes(stage).await;
    let gathered = gather(stage).await;
    assert_eq!(gathered.made.len(), 1, "{gathered:?}");
    DeliveryKey { message_id: gathered.made[0], recipient_no: 1 }
}

#[tokio::test]
async fn what_is_gathered_waits_and_goes_in_one_message_with_everything_in_order() {
    let stage = collecting(50).await;
    let mut keys = comments(&stage, "a", 3).await;
    let other = comment(&stage, "b", 1, "").await;
    let gathered = gather(&stage).await;
    assert_eq!((gathered.waiting.len(), gathered.made.len()), (4, 0));
    assert!(claimed(&stage).await.is_empty(), "they wait");
    assert!(state(&stage, keys[0]).await.starts_with("pending: gathered: goes in a digest at "));
    // A later one does not move the end; another address has its own.
    keys.push(comment(&stage, "A", 4, "").await);
    gather(&stage).await;
    let ends = "SELECT count(DISTINCT due_at) FROM outbox.queue WHERE message_id::text <> '";
    assert_eq!(stage.count(&format!("{ends}{}'", other.message_id)).await, 1);
    time_passes(&stage).await;
    let gathered = gather(&stage).await;
    assert_eq!(gathered.made.len(), 2, "{gathered:?}");
    let payloads = "SELECT string_agg(recipients[1] || ' ' || payload::text, '; ' ORDER BY recipients[1]) FROM outbox.message WHERE kind = 'summary'";
    let expected = "A@example.org {\"items\" : [{\"no\": 1}, {\"no\": 2}, {\"no\": 3}, {\"no\": 4}], \"count\" : 4}; b@example.org {\"items\" : [{\"no\": 1}], \"count\" : 1}";
    assert_eq!(stage.text(payloads).await, expected);
    let due: Vec<MessageId> = claimed(&stage).await.iter().map(|(key, _)| key.message_id).collect();
    assert_eq!(due.len(), 2, "none of those that are in a digest");
    assert!(due.iter().all(|id| gathered.made.contains(id)));
    assert_eq!(state(&stage, keys[0]).await, state(&stage, keys[3]).await);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.digest_group").await, 0);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn so_many_go_at_once_and_the_others_have_a_window_of_their_own() {
    let stage = collecting(2).await;
    comments(&stage, "a", 5).await;
    let gathered = gather(&stage).await;
    assert_eq!((gathered.waiting.len(), gathered.made.len()), (5, 2));
    let waiting = "SELECT count(*) FROM outbox.queue WHERE due_at > now() + interval '14 minutes' AND parked IS NULL";
    assert_eq!(stage.count(waiting).await, 1);
    comments(&stage, "a", 1).await;
    assert_eq!(gather(&stage).await.made.len(), 1);
    assert_eq!(stage.count("SELECT sum(members) FROM outbox.digest").await, 6);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn each_ends_as_its_digest_does_and_follows_what_becomes_of_it_later() {
    let stage = collecting(50).await;
    // Sent.
    let keys = comments(&stage, "a", 3).await;
    let sent = digest(&stage).await;
    let attempt = stage.send(sent).await;
    assert_eq!(stage.store.follow_digests(true).await.expect("follows"), 0, "it is on its way");
    assert!(state(&stage, keys[0]).await.starts_with(&format!("sending: in digest {}", sent.message_id)));
    assert!(stage.settle(&attempt, accepted()).await);
    assert_eq!(stage.store.follow_digests(false).await.expect("follows"), 1);
    for key in keys {
        assert!(state(&stage, key).await.starts_with(&format!("sent: in digest {}", sent.message_id)));
    }
    // In doubt, and decided.
    let keys = comments(&stage, "b", 2).await;
    let doubtful = digest(&stage).await;
    let attempt = stage.send(doubtful).await;
    assert!(stage.settle(&attempt, unknown()).await);
    assert_eq!(stage.store.follow_digests(true).await.expect("follows"), 0);
    assert!(state(&stage, keys[1]).await.starts_with("in_doubt: in digest "));
    stage.resolve(doubtful, "failed", None, true).await;
    assert_eq!(stage.store.follow_digests(false).await.expect("follows"), 1);
    assert!(state(&stage, keys[1]).await.starts_with(&format!("failed: in digest {}", doubtful.message_id)));
    // It had arrived.
    stage.late(&attempt, accepted()).await;
    assert_eq!(stage.store.follow_digests(false).await.expect("follows"), 0, "not looked at");
    assert_eq!(stage.store.follow_digests(true).await.expect("follows"), 1);
    assert!(state(&stage, keys[0]).await.starts_with(&format!("sent: in digest {}", doubtful.message_id)));
    // Failed, retried, sent.
    let keys = comments(&stage, "c", 2).await;
    let failed = digest(&stage).await;
    let attempt = stage.send(failed).await;
    assert!(stage.settle(&attempt, refused()).await);
    stage.store.follow_digests(false).await.expect("follows");
    assert!(state(&stage, keys[0]).await.starts_with("failed: in digest "));
    let answer = stage.retry(keys[0], true).await;
    assert!(answer.starts_with(&format!("refused: it went in digest {}", failed.message_id)), "{answer}");
    assert_eq!(stage.retry(failed, false).await, "pending: it was failed");
    stage.store.follow_digests(true).await.expect("follows");
    let attempt = stage.send(failed).await;
    assert!(stage.settle(&attempt, accepted()).await);
    stage.store.follow_digests(false).await.expect("follows");
    assert!(state(&stage, keys[0]).await.starts_with("sent: in digest "));
    // Cancelled.
    let keys = comments(&stage, "d", 2).await;
    let cancelled = digest(&stage).await;
    assert_eq!(stage.decide("cancel", cancelled).await, ["cancelled"]);
    stage.store.follow_digests(false).await.expect("follows");
    assert!(state(&stage, keys[1]).await.starts_with("cancelled: in digest "));
    // However it ends: its time passes, or its address is suppressed.
    for (end, to) in [("expired", "e"), ("suppressed", "f")] {
        let keys = comments(&stage, to, 2).await;
        let ended = digest(&stage).await.message_id;
        let finish = "SELECT outbox.finish(q, $1, NULL, 'because', NULL, 0) FROM outbox.queue q WHERE message_id = $2";
        stage.sql.query(finish, &[&end, &ended.0]).await.expect("ends");
        stage.store.follow_digests(false).await.expect("follows");
        assert_eq!(state(&stage, keys[0]).await, format!("{end}: in digest {ended}: because"));
    }
    let all = "SELECT count(*) FROM outbox.queue";
    assert_eq!(stage.count(all).await, 0);
    // 'sent' of a digest is evidence of what was in it: that has no attempts of its own.
    stage
        .run("UPDATE outbox.done SET evidence = 'report' WHERE reason LIKE 'in digest %' AND evidence = 'reply'")
        .await;
    stage.assert_consistent().await;
}

#[tokio::test]
async fn until_it_is_made_each_can_be_cancelled_or_held_and_after_that_only_the_digest() {
    let stage = collecting(50).await;
    let keys = comments(&stage, "a", 4).await;
    gather(&stage).await;
    assert_eq!(stage.decide("cancel", keys[0]).await, ["cancelled"]);
    assert_eq!(stage.decide("hold", keys[1]).await, ["held"]);
    let (application, _driver) = stage.session().await;
    crate::common::lock(&application, keys[2]).await;
    time_passes_but(&stage, keys[2]).await;
    let made = gather(&stage).await.made;
    application.batch_execute("ROLLBACK").await.expect("rolls back");
    let members = "SELECT string_agg(message_id::text, ' ') FROM outbox.digest_members";
    assert_eq!(stage.text(members).await, keys[3].message_id.to_string());
    for decision in ["cancel", "hold"] {
        let answer = &stage.decide(decision, keys[3]).await[0];
        assert!(answer.starts_with(&format!("too late: in digest {}", made[0])), "{answer}");
    }
    assert_eq!(stage.decide("release", keys[3]).await, ["nothing to release: it is pending"]);
    assert!(stage.retry(keys[3], true).await.starts_with("nothing to retry: it is pending, in digest "));
    // Those that were left out go in the next.
    stage.decide("release", keys[1]).await;
    let next = digest(&stage).await;
    assert_eq!(
        stage
            .count(&format!("SELECT count(*) FROM outbox.digest_members WHERE digest_id = '{}'", next.message_id))
            .await,
        2
    );
    stage.assert_consistent().await;
}

/// As [`time_passes`], but for one that somebody has locked.
async fn time_passes_but(stage: &Stage, locked: DeliveryKey) {
    stage.run("UPDATE outbox.digest_group SET closes_at = now() - interval '1 minute'").await;
    let sql = "UPDATE outbox.queue SET due_at = now() - interval '1 second' WHERE due_at > now() AND parked IS NULL AND message_id <> '";
    stage.run(&format!("{sql}{}'", locked.message_id)).await;
}

#[tokio::test]
async fn what_is_urgent_complete_ordered_or_would_expire_goes_by_itself() {
    let stage = collecting(50).await;
    for more in [
        "attachments='[{\"filename\": \"a.txt\", \"content_base64\": \"eA==\"}]'",
        "ordering_key='k'",
        "expires_at=now() + interval '10 minutes'",
    ] {
        let key = comment(&stage, "a", 1, more).await;
        let claimed = claimed(&stage).await;
        assert_eq!(claimed.iter().map(|one| one.0).collect::<Vec<_>>(), [key]);
        assert_eq!(stage.store.collect(&claimed).await.expect("gathers"), Gathered::default(), "{more}");
    }
    stage.run("INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('comment', '{a@example.org}', 'x', 'x')").await;
    assert_eq!(gather(&stage).await, Gathered::default());
    comment(&stage, "a", 1, "priority='urgent'").await;
    let urgent = stage.store.claim(0, hapax_store::Cursor::START, 10, Duration::from_secs(60)).await.expect("claims").1;
    let urgent: Vec<_> = urgent.iter().map(|one| (one.key, one.lease)).collect();
    assert_eq!(urgent.len(), 1);
    assert_eq!(stage.store.collect(&urgent).await.expect("gathers"), Gathered::default());
    // It does not expire in its window, and still goes when that is nearly over.
    let lasting = comment(&stage, "c", 1, "expires_at=now() + interval '20 minutes'").await;
    assert_eq!(gather(&stage).await.waiting, [lasting]);
    stage.run("UPDATE outbox.kind SET collect = interval '1 hour'").await;
    time_passes(&stage).await;
    assert_eq!(gather(&stage).await.made.len(), 1);
    // One that was tried, and one that an operator sends again.
    stage.run("UPDATE outbox.kind SET collect_as = NULL").await;
    let tried = comment(&stage, "d", 1, "").await;
    let attempt = stage.send(tried).await;
    assert!(stage.settle(&attempt, accepted()).await);
    stage.text(&format!("SELECT outbox.send_again('{}', 'lost')::text", tried.message_id)).await;
    assert_eq!(gather(&stage).await.waiting, []);
    // A digest of the same kind is not gathered again.
    comments(&stage, "e", 2).await;
    let own = digest(&stage).await;
    let due = claimed(&stage).await;
    assert!(due.iter().any(|one| one.0 == own));
    assert_eq!(stage.store.collect(&due).await.expect("gathers"), Gathered::default());
    stage.assert_consistent().await;
}

/// Each of them gets what is for them, and nobody sees who else did.
#[tokio::test]
async fn one_with_several_recipients_is_in_the_digest_of_each() {
    let stage = collecting(50).await;
    stage.run("INSERT INTO outbox.notification (kind, recipients, cc, payload) VALUES ('comment', '{a@example.org,b@example.org}', '{c@example.org}', '{\"no\": 1}')").await;
    comment(&stage, "b", 2, "").await;
    gather(&stage).await;
    time_passes(&stage).await;
    assert_eq!(gather(&stage).await.made.len(), 3);
    let to = "SELECT string_agg(recipients::text || cc::text || (payload ->> 'count'), ' ' ORDER BY recipients) FROM outbox.message WHERE kind = 'summary'";
    assert_eq!(stage.text(to).await, "{a@example.org}{}1 {b@example.org}{}2 {c@example.org}{}1");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn nothing_is_made_of_what_is_paused() {
    let stage = collecting(50).await;
    let keys = comments(&stage, "a", 3).await;
    let others = comments(&stage, "b", 1).await;
    gather(&stage).await;
    time_passes(&stage).await;
    stage.text("SELECT outbox.pause(address => 'a@example.org', reason => 'moving')").await;
    let gathered = gather(&stage).await;
    assert_eq!((gathered.stopped.len(), gathered.waiting.clone(), gathered.made.len()), (3, others, 1), "{gathered:?}");
    assert!(state(&stage, keys[0]).await.starts_with("pending: paused (address "));
    stage.text("SELECT outbox.resume(address => 'a@example.org', reason => 'moved')").await;
    let gathered = gather(&stage).await;
    assert_eq!(gathered.made.len(), 1);
    stage.text("SELECT outbox.pause(kind => 'comment', reason => 'wrong')").await;
    comments(&stage, "a", 2).await;
    let gathered = gather(&stage).await;
    // With the digest of their kind that is made already.
    assert_eq!((gathered.stopped.len(), gathered.waiting.len()), (3, 0), "{gathered:?}");
    stage.assert_consistent().await;
}

/// Many addresses, two relays that hold some of each, windows that end at once: each goes in one digest, and nobody
/// waits for ever.
#[tokio::test]
async fn two_relays_that_gather_at_once_make_each_digest_once() {
    let stage = collecting(1_000).await;
    let other = stage.relay().await;
    for round in 0..8 {
        for no in 1..=4 {
            let insert = format!(
                "INSERT INTO outbox.notification (kind, recipients, payload) SELECT 'comment', ARRAY['r' || i || '@example.org'], '{{\"no\": {no}}}' FROM generate_series(1, 25) i"
            );
            stage.run(&insert).await;
        }
        let gathered = gather(&stage).await;
        assert_eq!(gathered.waiting.len(), 100);
        time_passes(&stage).await;
        let (mut one, mut two): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for (at, claimed) in claimed(&stage).await.into_iter().enumerate() {
            if (at + round) % 3 == 0 { one.push(claimed) } else { two.push(claimed) }
        }
        two.reverse();
        let collect =
            async |store: &Store, claimed: &[(DeliveryKey, Lease)]| store.collect(claimed).await.expect("gathers");
        let (a, b) = tokio::join!(collect(&stage.store, &one), collect(&other, &two));
        assert_eq!(a.made.len() + b.made.len(), 25, "{round}");
        stage.run("UPDATE outbox.queue SET parked = 'held', due_at = 'infinity', lease = NULL WHERE parked IS NULL AND message_id IN (SELECT id FROM outbox.digest)").await;
    }
    let unlike = "SELECT count(*) FROM outbox.digest WHERE members <> 4";
    assert_eq!((stage.count("SELECT count(*) FROM outbox.digest").await, stage.count(unlike).await), (200, 0));
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'collected'").await, 800);
    stage.assert_consistent().await;
}

/// A relay that has one in hand gets no intent for it once it is in a digest.
#[tokio::test]
async fn what_is_in_a_digest_is_out_of_everybodys_hands() {
    let stage = collecting(50).await;
    let keys = comments(&stage, "a", 2).await;
    gather(&stage).await;
    time_passes(&stage).await;
    let due = claimed(&stage).await;
    let made = stage.store.collect(&due[..1]).await.expect("gathers").made;
    assert_eq!(made.len(), 1);
    for (key, lease) in due {
        let attempt = Attempt { key, lease, token: hapax_core::Token::fresh() };
        assert_eq!(stage.intend(&attempt).await, hapax_store::IntendAnswer::Refused);
    }
    assert!(state(&stage, keys[1]).await.starts_with("pending: in digest "));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn their_weeks_stay_until_they_have_ended_and_then_everything_is_forgotten() {
    let stage = collecting(50).await;
    comments(&stage, "a", 2).await;
    let digest = digest(&stage).await;
    let drop = "SELECT count(*) FROM outbox.drop_partitions_before(now() + interval '30 days') WHERE action = 'dropped' AND detail IN
                (SELECT 'message_' || to_char(date_trunc('week', now() AT TIME ZONE 'UTC'), 'YYYYMMDD'))";
    assert_eq!(stage.count(drop).await, 0);
    let attempt = stage.send(digest).await;
    assert!(stage.settle(&attempt, accepted()).await);
    assert_eq!(stage.count(drop).await, 0, "the digest has ended, what it was made of has not been told");
    stage.store.follow_digests(true).await.expect("follows");
    assert_eq!(stage.count(drop).await, 1);
    stage.store.follow_digests(true).await.expect("follows");
    let left = "SELECT (SELECT count(*) FROM outbox.digest) + (SELECT count(*) FROM outbox.digest_member) + (SELECT count(*) FROM outbox.done)";
    assert_eq!(stage.count(left).await, 0);
    assert_ne!(digest.message_id.0, Uuid::nil());
}

#[tokio::test]
async fn what_may_have_arrived_with_its_digest_keeps_its_key_and_its_guard() {
    let stage = collecting(50).await;
    stage
        .run("UPDATE outbox.kind SET guard_window = interval '1 hour', on_duplicate = 'hold' WHERE name = 'comment'")
        .await;
    let keys = [comment(&stage, "a", 1, "dedup_key='k1'").await, comment(&stage, "a", 2, "").await];
    let doubtful = digest(&stage).await;
    let attempt = stage.send(doubtful).await;
    assert!(stage.settle(&attempt, unknown()).await);
    stage.resolve(doubtful, "failed", None, true).await;
    assert_eq!(stage.store.follow_digests(false).await.expect("follows"), 1);
    let doubts = "SELECT string_agg(open_doubts::text, ' ') FROM outbox.deliveries WHERE kind = 'comment'";
    assert_eq!(stage.text(doubts).await, "1 1");
    let freed = stage.sql.query_one("SELECT outbox.release_key('k1')", &[]).await.expect_err("it may have arrived");
    assert_eq!(freed.code().map(tokio_postgres::error::SqlState::code), Some("23H02"));
    // The same again, without a key.
    let again = comment(&stage, "a", 2, "").await;
    let gathered = gather(&stage).await;
    assert!(gathered.made.is_empty(), "{gathered:?}");
    assert!(!state(&stage, again).await.starts_with("sent"));
    let answer = stage.retry(keys[1], false).await;
    assert!(answer.starts_with("refused: "), "{answer}");
    // It had not: the truth frees them.
    stage.late(&attempt, refused()).await;
    stage.store.follow_digests(true).await.expect("follows");
    assert_eq!(stage.text(doubts).await.split(' ').next(), Some("0"));
}

#[tokio::test]
async fn a_digest_expires_with_the_first_that_is_in_it_and_the_others_are_gathered_again() {
    let stage = collecting(50).await;
    let first = comment(&stage, "a", 1, "expires_at=now() + interval '20 minutes'").await;
    let later = comment(&stage, "a", 2, "expires_at=now() + interval '2 hours'").await;
    let never = comment(&stage, "a", 3, "").await;
    let one = digest(&stage).await;
    let expires = "SELECT count(*) FROM outbox.message m JOIN outbox.message f ON m.expires_at = f.expires_at WHERE m.kind = 'summary' AND f.id = '";
    assert_eq!(stage.count(&format!("{expires}{}'", first.message_id)).await, 1, "as the first of them");
    // Its time is over.
    stage
        .run("UPDATE outbox.message SET expires_at = now() - interval '1 second' WHERE expires_at < now() + interval '1 hour'")
        .await;
    let finish = "SELECT outbox.finish(q, 'expired', NULL, 'its time passed', NULL, 0) FROM outbox.queue q WHERE message_id = $1";
    stage.sql.query(finish, &[&one.message_id.0]).await.expect("ends");
    assert_eq!(stage.store.follow_digests(false).await.expect("follows"), 1);
    assert_eq!(state(&stage, first).await, format!("expired: in digest {}: its time passed", one.message_id));
    for key in [later, never] {
        assert!(state(&stage, key).await.starts_with("pending: "), "{}", state(&stage, key).await);
    }
    let two = digest(&stage).await;
    assert_eq!(stage.text("SELECT string_agg(message_id::text, ' ' ORDER BY message_id) FROM outbox.digest_members GROUP BY digest_id ORDER BY digest_id DESC LIMIT 1").await,
        format!("{} {}", later.message_id, never.message_id));
    let attempt = stage.send(two).await;
    assert!(stage.settle(&attempt, accepted()).await);
    stage.store.follow_digests(false).await.expect("follows");
    assert!(state(&stage, never).await.starts_with("sent: "));
}

#[tokio::test]
async fn a_pause_and_a_suppression_of_a_kind_reach_digests_of_it() {
    let stage = collecting(50).await;
    comments(&stage, "a", 2).await;
    let keys = comments(&stage, "b", 2).await;
    gather(&stage).await;
    time_passes(&stage).await;
    assert_eq!(gather(&stage).await.made.len(), 2);
    stage.text("SELECT outbox.pause(kind => 'comment', reason => 'wrong price')").await;
    stage.text("SELECT outbox.suppress('b@example.org', 'unsubscribed', kind => 'comment')::text").await;
    let stop = "SELECT count(*) FROM outbox.queue q CROSS JOIN LATERAL outbox.stop_batch(ARRAY[q.message_id], ARRAY[q.recipient_no], ARRAY[q.lease], ARRAY[gen_random_uuid()], ARRAY['default'])
                WHERE q.lease IS NOT NULL";
    assert_eq!(claimed(&stage).await.len(), 2);
    assert_eq!(stage.count(stop).await, 2, "both are paused");
    stage.text("SELECT outbox.resume(kind => 'comment', reason => 'corrected')").await;
    stage.run("SELECT outbox.unpark()").await;
    assert_eq!(claimed(&stage).await.len(), 2);
    assert_eq!(stage.count(stop).await, 1, "one is suppressed");
    stage.store.follow_digests(false).await.expect("follows");
    assert!(state(&stage, keys[0]).await.starts_with("suppressed: "));
}
