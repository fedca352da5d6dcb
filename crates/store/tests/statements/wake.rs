//! Looking instead of claiming, and asking to be woken.

use std::time::Duration;

use hapax_store::Cursor;

use crate::common::{LANE, Stage};

const LANES: [(i16, Cursor); 3] = [(0, Cursor::START), (LANE, Cursor::START), (2, Cursor::START)];

#[tokio::test]
async fn a_look_sees_the_lanes_in_which_a_claim_finds_something_and_when_the_next_one_will() {
    let stage = Stage::set().await;
    let seen = stage.store.look(&LANES, false, false).await.expect("looks");
    assert!(seen.due.is_empty() && seen.next_in.is_none());
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash) VALUES
             (gen_random_uuid(), 1, 0, now() + interval '1 hour', 0), (gen_random_uuid(), 1, 2, now() + interval '1 minute', 0),
             (gen_random_uuid(), 1, 5, now(), 0)",
        )
        .await;
    let seen = stage.store.look(&LANES, false, false).await.expect("looks");
    assert!(seen.due.is_empty());
    let next_in = seen.next_in.expect("two will be due");
    assert!(next_in <= Duration::from_secs(60) && next_in > Duration::from_secs(20), "{next_in:?}");
    stage.enqueue(2).await;
    assert_eq!(stage.store.look(&LANES, false, false).await.expect("looks").due, [LANE]);
    assert_eq!(stage.claim().await.len(), 2);
    assert!(stage.store.look(&LANES, false, false).await.expect("looks").due.is_empty(), "somebody has them in hand");
    for (nobodys, is_due) in
        [("now() - interval '1 s'", true), ("now() + interval '1 h'", false), ("NULL", true), ("'infinity'", true)]
    {
        stage.run(&format!("UPDATE outbox.queue SET lease_until = {nobodys} WHERE lane = {LANE}")).await;
        let due = stage.store.look(&LANES, false, false).await.expect("looks").due;
        assert_eq!(due == [LANE], is_due, "a lease until {nobodys}: {due:?}");
    }
    for otherwise in ["intent = gen_random_uuid()", "intent = NULL, parked = 'held', due_at = 'infinity'"] {
        stage.run(&format!("UPDATE outbox.queue SET lease = NULL, {otherwise} WHERE lane = {LANE}")).await;
        assert!(stage.store.look(&LANES, false, false).await.expect("looks").due.is_empty(), "{otherwise}");
    }
}

#[tokio::test]
async fn a_look_that_goes_on_reads_nothing_of_what_is_before_and_tells_how_far_it_came() {
    let stage = Stage::set().await;
    stage.enqueue(3).await;
    let third = "SELECT due_at FROM outbox.queue ORDER BY due_at, message_id OFFSET 2 LIMIT 1";
    stage.run("UPDATE outbox.queue q SET due_at = now() - n * interval '1 minute' FROM (SELECT message_id, row_number() OVER () AS n FROM outbox.queue) o WHERE o.message_id = q.message_id").await;
    let third: std::time::SystemTime = stage.sql.query_one(third, &[]).await.expect("three").get(0);
    let all = stage.store.look(&LANES, false, false).await.expect("looks");
    assert_eq!(all.reached.len(), 3);
    assert!(all.reached[1] < Cursor::before(third), "the first of three: {all:?}");
    let on = stage.store.look(&[(LANE, Cursor::before(third))], false, false).await.expect("looks");
    assert_eq!((&on.due[..], &on.reached[..]), (&[LANE][..], &[Cursor::before(third)][..]));
    let present = all.reached[0];
    let none = stage.store.look(&[(LANE, present)], false, false).await.expect("looks");
    assert!(none.due.is_empty() && none.reached[0] >= present, "{none:?}");
}

#[tokio::test]
async fn a_look_tells_whether_somebody_still_writes_who_began_before() {
    let stage = Stage::set().await;
    let (writer, _driver) = stage.session().await;
    writer.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("begins to write");
    let before = stage.store.look(&LANES, false, true).await.expect("looks");
    let mark = before.mark.expect("it was asked for");
    assert!(before.oldest < mark, "{before:?}");
    let now = stage.store.look(&LANES, false, false).await.expect("looks");
    assert!(now.oldest < mark && now.mark.is_none(), "it still writes: {now:?}");
    writer.batch_execute("COMMIT").await.expect("commits");
    // Other tests write to other databases of this cluster.
    hapax_testkit::eventually(crate::common::DEADLINE, async || {
        let now = stage.store.look(&LANES, false, false).await.expect("looks");
        if now.oldest > mark { Ok(()) } else { Err(now) }
    })
    .await;
}

#[tokio::test]
async fn a_relay_asks_goes_on_asking_and_withdraws_and_clears_away_the_dead() {
    let stage = Stage::set().await;
    let other = stage.relay().await;
    stage.run("INSERT INTO outbox.sleeper VALUES (gen_random_uuid(), now() - interval '1 s')").await;
    let asleep = "SELECT count(*) FROM outbox.sleeper WHERE until > now()";
    for _ in 0..2 {
        assert!(stage.store.sleep(Duration::from_secs(60)).await.expect("asks"));
    }
    assert!(other.sleep(Duration::from_secs(60)).await.expect("asks"));
    assert_eq!(stage.count(asleep).await, 2);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.sleeper").await, 2, "the dead one is gone");
    stage.store.awake().await.expect("withdraws");
    stage.store.awake().await.expect("withdraws again");
    assert_eq!(stage.count(asleep).await, 1);
}

#[tokio::test]
async fn a_listener_hears_and_notices_its_end() {
    let stage = Stage::set().await;
    let mut listener = stage.store.listen().await.expect("listens");
    stage.store.sleep(Duration::from_secs(60)).await.expect("asks");
    stage.enqueue(1).await;
    listener.heard().await.expect("is woken");
    stage.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%outbox.listen%' AND pid <> pg_backend_pid()").await;
    let error = listener.heard().await.expect_err("its connection has ended");
    assert!(!error.is_guard(), "{error}");
}
