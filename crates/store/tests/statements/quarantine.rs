//! What is held after a failover, what is not, and how it goes on; and messages that came past the doors.

use std::time::Instant;

use uuid::Uuid;

use crate::common::{LANE, Stage, accepted, unknown};

const ELSEWHERE: &str = "UPDATE outbox.control SET identity = '1/00000001/1'";
const HELD: &str = "SELECT count(*) FROM outbox.queue WHERE parked = 'held' AND note LIKE 'failover:%' AND due_at = 'infinity' AND lease IS NULL";

/// Walks the queue to its end; answers how many are held and how many calls it took.
async fn walk(stage: &Stage, batch: i32) -> (i64, u32) {
    for calls in 1.. {
        let now = stage.store.quarantine(batch).await.expect("walks");
        if now.finished {
            return (now.held, calls);
        }
    }
    unreachable!("it ends")
}

#[tokio::test]
async fn rc34_everything_that_may_ever_have_been_due_is_held_and_nothing_else() {
    let stage = Stage::set().await;
    // Due; waiting after a refusal; claimed; held by a person before; in doubt; sending.
    let keys = stage.enqueue(6).await;
    let set = async |at: usize, what: &str| {
        stage.run(&format!("UPDATE outbox.queue SET {what} WHERE message_id = '{}'", keys[at].message_id)).await;
    };
    set(1, "due_at = now() + interval '3 hours', attempt_no = 2").await;
    set(2, "lease = gen_random_uuid(), lease_until = now() + interval '1 hour'").await;
    set(3, "parked = 'held', due_at = 'infinity', note = 'by a person'").await;
    set(4, "intent = gen_random_uuid(), parked = 'doubt', doubt_since = now(), due_at = 'infinity', open_doubts = 1")
        .await;
    set(5, "intent = gen_random_uuid()").await;
    let later = |at: &str| {
        format!(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, not_before) VALUES ('note', '{{z@example.org}}', 'x', 'x', now() + interval '{at}') RETURNING id"
        )
    };
    let soon: Uuid = stage.sql.query_one(&later("30 minutes"), &[]).await.expect("enqueues").get(0);
    let tomorrow: Uuid = stage.sql.query_one(&later("1 day"), &[]).await.expect("enqueues").get(0);

    assert_eq!(walk(&stage, 3).await, (0, 1), "on a server that is armed nothing is held");
    stage.run(ELSEWHERE).await;
    let (held, calls) = walk(&stage, 3).await;
    assert_eq!((held, calls), (4, 4), "8 rows by 3, and one call that finds the end");
    assert_eq!(stage.count(HELD).await, 4);
    let states = "SELECT string_agg(outbox.state_of(parked, intent, lease, lease_until), ' ' ORDER BY message_id) FROM outbox.queue";
    assert_eq!(stage.text(states).await, "held held held held in_doubt sending held pending");
    let of = |id: Uuid, what: &str| format!("SELECT {what} FROM outbox.queue WHERE message_id = '{id}'");
    assert_eq!(stage.text(&of(keys[3].message_id.0, "note")).await, "by a person");
    assert_eq!(stage.count(&of(soon, "(parked = 'held')::int::bigint")).await, 1, "an hour for clocks that differ");
    assert_eq!(stage.count(&of(tomorrow, "(parked IS NULL)::int::bigint")).await, 1, "it was never due");

    // What comes later was never on the other server, and the walk is not begun again.
    stage.enqueue(5).await;
    assert_eq!(walk(&stage, 3).await, (4, 1));
    assert_eq!(stage.count(HELD).await, 4);
    let row = stage.sql.query_one("SELECT held, in_doubt, sending FROM outbox.arm('db1 is gone')", &[]).await;
    let row = row.expect("arms");
    assert_eq!((row.get(0), row.get(1), row.get(2)), (4_i64, 1_i64, 1_i64));
    assert_eq!(stage.count(HELD).await, 4);
    assert_eq!(
        stage
            .count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL AND intent IS NULL AND due_at <= now()")
            .await,
        5
    );
}

#[tokio::test]
async fn a_policy_leaves_doubts_from_before_a_failover_to_a_person() {
    let stage = Stage::set().await;
    stage.doubtful().await;
    let doubts = async || {
        let after = hapax_core::MessageId(Uuid::nil());
        stage.store.doubts(&[LANE], after, 10).await.expect("lists").len()
    };
    assert_eq!(doubts().await, 1);
    stage.run(ELSEWHERE).await;
    walk(&stage, 10).await;
    assert_eq!(doubts().await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, 1);
}

#[tokio::test]
async fn arming_holds_by_itself_and_only_what_needs_it() {
    let stage = Stage::set().await;
    stage.enqueue(7).await;
    // Armed anew on the same server: nothing was lost, nothing is held.
    assert_eq!(stage.count("SELECT held FROM outbox.arm('a new epoch')").await, 0);
    stage.run(ELSEWHERE).await;
    assert_eq!(stage.count("SELECT held FROM outbox.arm('planned switchover', hold_pending => false)").await, 0);
    // Restored in place while nobody was watching: only a person can know.
    assert_eq!(stage.count("SELECT held FROM outbox.arm('restored', hold_pending => true)").await, 7);
    assert_eq!(stage.count("SELECT outbox.release_failover('a rehearsal')").await, 7);
    stage.run(ELSEWHERE).await;
    assert_eq!(stage.count("SELECT held FROM outbox.arm('db1 is gone')").await, 7);
    assert_eq!(stage.count(HELD).await, 7);
    assert_eq!(stage.count("SELECT held FROM outbox.arm('once more')").await, 0);
    let audit = "SELECT string_agg(action, ' | ' ORDER BY id) FROM outbox.audit";
    assert_eq!(
        stage.text(audit).await,
        "arm | arm, continue | quarantine | arm | release failover | quarantine | arm | arm"
    );
}

#[tokio::test]
async fn rc34_what_waits_behind_an_ordering_key_is_held_when_its_turn_comes() {
    let stage = Stage::set().await;
    let keys = [
        stage.enqueue_one(1, Some("key")).await[0],
        stage.enqueue_one(1, Some("key")).await[0],
        stage.enqueue_one(1, Some("key")).await[0],
    ];
    stage.run(ELSEWHERE).await;
    assert_eq!(walk(&stage, 10).await.0, 1, "the head; the others wait");
    stage.run("SELECT outbox.arm('why')").await;
    let store = stage.relay().await;
    let stage = Stage { store, ..stage };
    let states = async || {
        let mut states = Vec::new();
        for key in keys {
            states.push(stage.queued(key).await.and_then(|queued| queued.parked).unwrap_or_else(|| "free".into()));
        }
        states.join(" ")
    };
    assert_eq!(states().await, "held ordered ordered");
    stage.run(&format!("SELECT outbox.release('{}', 'never left')", keys[0].message_id)).await;
    let attempt = stage.send(keys[0]).await;
    assert!(stage.settle(&attempt, accepted()).await);
    assert_eq!(stage.state(keys[1]).await, "held", "it may have been sent before, too");
    // By the functions as by the settle.
    stage.run(&format!("SELECT outbox.cancel('{}', 'was sent')", keys[1].message_id)).await;
    assert_eq!(stage.state(keys[2]).await, "held");
    assert_eq!(stage.count("SELECT outbox.release_failover('checked')").await, 1);
    assert_eq!(stage.attempt(keys[2]).await.key, keys[2]);
    // Each release was a decision: it may have been sent before.
    assert_eq!(stage.queued(keys[2]).await.expect("queued").resends, 1);
    assert_eq!(
        stage
            .count(&format!("SELECT resends::bigint FROM outbox.done WHERE message_id = '{}'", keys[0].message_id))
            .await,
        1
    );
}

#[tokio::test]
async fn everything_held_is_released_in_batches_and_keys_keep_their_order() {
    let stage = Stage::set().await;
    stage.enqueue(25).await;
    for _ in 0..4 {
        stage.enqueue_one(1, Some("key")).await;
    }
    stage.run(ELSEWHERE).await;
    stage.run("SELECT outbox.arm('why')").await;
    assert_eq!(stage.count(HELD).await, 26);
    let mut batches = Vec::new();
    loop {
        match stage.count("SELECT outbox.release_failover('checked', 10)").await {
            0 => break,
            released => batches.push(released),
        }
    }
    assert_eq!(batches.iter().sum::<i64>(), 26, "{batches:?}");
    assert!(batches.iter().all(|released| *released <= 10), "{batches:?}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE note LIKE 'failover:%'").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'ordered'").await, 3);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL AND due_at <= now()").await, 26);
    let refusal = stage.sql.batch_execute("SELECT outbox.release_failover(' ')").await.expect_err("refused");
    assert_eq!(refusal.code().expect("a state").code(), "22H50");
}

/// `HAPAX_QUARANTINE_ROWS=1000000` for the figure in ARCHITECTURE.md.
#[tokio::test]
async fn a_long_queue_is_held_in_short_transactions_while_producers_and_operators_go_on() {
    let rows: i64 = std::env::var("HAPAX_QUARANTINE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000);
    let stage = Stage::set().await;
    stage
        .run(&format!(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
             SELECT outbox.uuid_v7(), 1, i % 3, now() + i % 7 * interval '1 s', i FROM generate_series(1, {rows}) i; ANALYZE outbox.queue"
        ))
        .await;
    stage.run(ELSEWHERE).await;
    let began = Instant::now();
    let (mut longest, mut calls, mut enqueued) = (std::time::Duration::ZERO, 0, 0);
    loop {
        let before = Instant::now();
        let batch = stage.store.quarantine(5_000).await.expect("walks");
        longest = longest.max(before.elapsed());
        calls += 1;
        if calls % 10 == 1 {
            stage.enqueue(1).await;
            enqueued += 1;
        }
        if batch.finished {
            assert_eq!(batch.held, rows, "what is enqueued meanwhile is not held");
            break;
        }
    }
    println!("{rows} rows held in {:.1?}, {calls} calls, the longest {longest:.1?}", began.elapsed());
    assert_eq!(stage.count(HELD).await, rows);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL").await, enqueued);
}

#[tokio::test]
async fn rc48_messages_that_came_past_the_doors_are_found_and_not_sent() {
    let stage = Stage::set().await;
    stage.enqueue(3).await;
    let doubtful = stage.doubtful().await;
    let sent = stage.sending().await;
    assert!(stage.settle(&sent, accepted()).await);
    let page = stage.store.unqueued(Uuid::nil(), 1_000).await.expect("looks");
    assert_eq!((page.looked, page.how_many, page.missing.len()), (5, 0, 0), "{doubtful:?} {:?}", unknown());
    let row = "(created_at, kind, recipients, subject, body_text) VALUES (now(), 'note', '{a@example.org}', 'x', 'x')";
    // As logical replication and pg_restore --disable-triggers do it, and as one does who names a partition.
    stage
        .run(&format!(
            "SET session_replication_role = replica; INSERT INTO outbox.message {row}; RESET session_replication_role"
        ))
        .await;
    let leaf = stage.text("SELECT tableoid::regclass::text FROM outbox.message LIMIT 1").await;
    stage.run(&format!("INSERT INTO {leaf} {row}")).await;
    let found = stage.store.unqueued(page.last.expect("a cursor"), 1_000).await.expect("looks");
    assert_eq!((found.looked, found.how_many, found.missing.len()), (2, 2, 2));
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 4, "only what came through the door is there");
    // A page is bounded, and goes on where it ended.
    let first = stage.store.unqueued(Uuid::nil(), 6).await.expect("looks");
    let second = stage.store.unqueued(first.last.expect("a cursor"), 6).await.expect("looks");
    assert_eq!((first.looked, first.how_many, second.looked, second.how_many), (6, 1, 1, 1));
}
