//! Relays that are woken: at once, only while they sleep, and never at anybody's expense.

mod stage;

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use hapax_core::limits::Limits;
use hapax_relay::RelayConfig;
use hapax_testkit::{PgCluster, Phase, eventually};
use stage::{DEADLINE, Stage};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// Below a third of the time for which a relay asks to be woken: what happens sooner, no renewal has brought about.
const SOON: Duration = Duration::from_secs(15);

/// A relay that is woken, and otherwise looks once an hour while it sleeps.
fn sleepy(stage: &Stage) -> RelayConfig {
    let config = stage.config();
    let limits = Limits { poll_interval_asleep: Duration::from_secs(3600), ..config.limits };
    RelayConfig { wake_up: true, limits, ..config }
}

/// Everything that is ever written to `outbox.sleeper`, in order: I, U, D.
async fn watch_sleepers(stage: &Stage) {
    stage
        .sql
        .batch_execute(
            "CREATE TABLE public.slept (no bigint GENERATED ALWAYS AS IDENTITY, what text);
             CREATE FUNCTION public.slept() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.slept (what) VALUES (left(TG_OP, 1)); RETURN NULL; END $$;
             CREATE TRIGGER slept AFTER INSERT OR UPDATE OR DELETE ON outbox.sleeper FOR EACH ROW EXECUTE FUNCTION public.slept()",
        )
        .await
        .expect("watches");
}

async fn slept(stage: &Stage) -> String {
    let sql = "SELECT coalesce(string_agg(what, '' ORDER BY no), '') FROM public.slept";
    stage.sql.query_one(sql, &[]).await.expect("reads").get(0)
}

/// Waits until a relay has asked to be woken and has not looked for half a second: only a wake-up makes it look again.
async fn until_asleep(stage: &Stage) {
    eventually(DEADLINE, async || {
        let sql = "SELECT (SELECT count(*) FROM outbox.sleeper WHERE until > now()), count(*) FILTER (WHERE query LIKE '%outbox.look%'
                          AND (state = 'active' OR state_change > clock_timestamp() - interval '500 ms'))
                   FROM pg_stat_activity WHERE application_name = 'hapax-test'";
        let row = stage.sql.query_one(sql, &[]).await.expect("reads");
        let (asked, looking): (i64, i64) = (row.get(0), row.get(1));
        (asked > 0 && looking == 0).then_some(()).ok_or((asked, looking))
    })
    .await;
}

/// Backends that listen.
async fn ears(stage: &Stage) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%outbox.listen%' AND pid <> pg_backend_pid()";
    stage.sql.query(sql, &[]).await.expect("reads").iter().map(|row| row.get(0)).collect()
}

/// Somebody else who listens: what is said arrives in the channel.
async fn eavesdrop(cluster: &PgCluster) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.expect("connects");
    let (sender, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(said) = message {
                drop(sender.send(said.payload().to_owned()));
            }
        }
    });
    client.batch_execute("LISTEN hapax").await.expect("listens");
    (client, heard)
}

/// What was said until `mark`, which is said now.
async fn said_until(stage: &Stage, heard: &mut mpsc::UnboundedReceiver<String>, mark: &str) -> Vec<String> {
    stage.sql.execute("SELECT pg_notify('hapax', $1)", &[&mark]).await.expect("notifies");
    let mut said = Vec::new();
    loop {
        match heard.recv().await.expect("listens") {
            word if word == mark => return said,
            word => said.push(word),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_relay_is_woken_by_the_commit_long_before_it_would_look() {
    let stage = Stage::set().await;
    let relay = stage.relay(sleepy(&stage)).await;
    for number in 1..=3 {
        until_asleep(&stage).await;
        let began = Instant::now();
        stage.enqueue(1).await;
        stage.until_done(number).await;
        assert!(began.elapsed() < SOON, "woken within {:?}", began.elapsed());
    }
    until_asleep(&stage).await;
    relay.stop().await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.sleeper").await, 0, "it has withdrawn");
    stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
}

/// A look takes so long that lanes are read from behind their starts for a while.
async fn slow_looks(stage: &Stage) {
    stage
        .sql
        .batch_execute(
            "ALTER FUNCTION outbox.look_onward(smallint[], timestamptz[], boolean, boolean) RENAME TO looks;
             CREATE FUNCTION outbox.look_onward(smallint[], timestamptz[], boolean, boolean)
             RETURNS TABLE (due smallint[], next_in_s float8, oldest bigint, mark bigint, waiting bigint, reached timestamptz[])
             LANGUAGE plpgsql AS $$ BEGIN
               PERFORM pg_sleep(0.05);
               RETURN QUERY SELECT * FROM outbox.looks($1, $2, $3, $4);
             END $$;
             GRANT EXECUTE ON FUNCTION outbox.look_onward(smallint[], timestamptz[], boolean, boolean) TO outbox_relay",
        )
        .await
        .expect("slows them down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_it_fell_asleep_is_found_where_lanes_are_read_from_behind_their_starts() {
    let stage = Stage::set().await;
    slow_looks(&stage).await;
    found_without_a_wake_up(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_it_fell_asleep_and_committed_afterwards_is_found_without_a_wake_up() {
    found_without_a_wake_up(&Stage::set().await).await;
}

async fn found_without_a_wake_up(stage: &Stage) {
    let (client, mut heard) = eavesdrop(&stage.cluster).await;
    // It has asked whether anybody sleeps, nobody did, and its commit takes a while.
    client
        .batch_execute(
            "BEGIN; INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', '{r1@example.org}', 'a', 'b')",
        )
        .await
        .expect("enqueues");
    let relay = stage.relay(sleepy(stage)).await;
    eventually(DEADLINE, async || {
        let asked = stage.count("SELECT count(*) FROM outbox.sleeper").await;
        (asked == 1).then_some(()).ok_or(asked)
    })
    .await;
    let began = Instant::now();
    client.batch_execute("COMMIT").await.expect("commits");
    stage.until_done(1).await;
    assert!(began.elapsed() < SOON, "polled within {:?}", began.elapsed());
    let said = said_until(stage, &mut heard, "mark").await;
    assert!(said.iter().all(|word| !word.is_empty()), "no producer has woken it: {said:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_due_while_it_sleeps_is_sent_at_its_time() {
    let stage = Stage::set().await;
    let relay = stage.relay(sleepy(&stage)).await;
    stage
        .sql
        .batch_execute(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, not_before)
             VALUES ('note', '{r1@example.org}', 'a', 'b', now() + interval '3 s')",
        )
        .await
        .expect("enqueues");
    let began = Instant::now();
    stage.until_done(1).await;
    assert!(began.elapsed() < SOON, "sent within {:?}", began.elapsed());
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.attempt a, outbox.message m WHERE a.started_at < m.not_before").await,
        0
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_notifies_nobody_unless_a_relay_sleeps_and_then_once_a_transaction() {
    let stage = Stage::set().await;
    let (_client, mut heard) = eavesdrop(&stage.cluster).await;
    let sleeper = async |until: &str| {
        let sql = format!(
            "DELETE FROM outbox.sleeper; INSERT INTO outbox.sleeper VALUES (gen_random_uuid(), now() + interval '{until}')"
        );
        stage.sql.batch_execute(&sql).await.expect("registers");
    };
    stage.enqueue(3).await;
    assert!(said_until(&stage, &mut heard, "nobody sleeps").await.is_empty());
    for over in ["-1 second", "10 years"] {
        sleeper(over).await;
        stage.enqueue(3).await;
        assert!(said_until(&stage, &mut heard, over).await.is_empty(), "a registration that is over by {over}");
    }
    sleeper("1 minute").await;
    let three = "BEGIN;
        INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', '{a@example.org}', 'a', 'b');
        SELECT outbox.enqueue('note', '{a@example.org}', subject => 'a', body_text => 'b');
        INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', '{a@example.org}', 'a', 'b');
        COMMIT";
    stage.sql.batch_execute(three).await.expect("enqueues");
    stage.sql.batch_execute(&three.replace("COMMIT", "ROLLBACK")).await.expect("thinks better of it");
    assert_eq!(said_until(&stage, &mut heard, "one sleeps").await, [""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_relay_asks_no_longer_and_asks_again_afterwards_with_few_writes() {
    let stage = Stage::set().await;
    watch_sleepers(&stage).await;
    let (_client, mut heard) = eavesdrop(&stage.cluster).await;
    let relay = stage.relay(sleepy(&stage)).await;
    until_asleep(&stage).await;
    let hold = stage.server.hold(Phase::Rcpt);
    // More than it has room for: it must not be woken for what it is at work on, however long that takes.
    stage.enqueue(200).await;
    hold.wait_for(16).await;
    eventually(DEADLINE, async || {
        let asked = stage.count("SELECT count(*) FROM outbox.sleeper").await;
        (asked == 0).then_some(()).ok_or(asked)
    })
    .await;
    drop(said_until(&stage, &mut heard, "busy").await);
    for _ in 0..20 {
        stage.enqueue(1).await;
    }
    assert!(said_until(&stage, &mut heard, "still busy").await.is_empty());
    hold.release();
    stage.until_done(220).await;
    until_asleep(&stage).await;
    relay.stop().await;
    let written = slept(&stage).await;
    assert!(written.starts_with("IDI") && written.ends_with('D'), "taken back, asked again, withdrawn: {written}");
    assert!(written.len() < 30, "few writes for 220 deliveries: {written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_relay_has_asked_for_is_cleared_away() {
    let stage = Stage::set().await;
    let dead = "INSERT INTO outbox.sleeper SELECT gen_random_uuid(), now() - i * interval '1 second' FROM generate_series(1, 3) i";
    stage.sql.batch_execute(dead).await.expect("registers");
    let relay = stage.relay(sleepy(&stage)).await;
    until_asleep(&stage).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.sleeper").await, 1, "the living one");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_ear_cut_off_a_relay_polls_and_it_grows_again() {
    let stage = Stage::set().await;
    let relay = stage.relay(sleepy(&stage)).await;
    for round in 1..=2 {
        until_asleep(&stage).await;
        let ears_now = ears(&stage).await;
        assert_eq!(ears_now.len(), 1, "one listens, outside the pool");
        stage.sql.execute("SELECT pg_terminate_backend($1)", &[&ears_now[0]]).await.expect("cuts it off");
        let began = Instant::now();
        stage.enqueue(1).await;
        stage.until_done(2 * round - 1).await;
        assert!(began.elapsed() < SOON, "polled within {:?}", began.elapsed());
        eventually(DEADLINE, async || {
            let now = ears(&stage).await;
            (now.len() == 1 && now != ears_now).then_some(()).ok_or(now)
        })
        .await;
        until_asleep(&stage).await;
        let began = Instant::now();
        stage.enqueue(1).await;
        stage.until_done(2 * round).await;
        assert!(began.elapsed() < SOON, "woken within {:?}", began.elapsed());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_to_be_woken_neither_listens_nor_asks() {
    let stage = Stage::set().await;
    watch_sleepers(&stage).await;
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(5).await;
    stage.until_done(5).await;
    let looks =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hapax-test' AND query LIKE '%outbox.look%'";
    eventually(DEADLINE, async || (stage.count(looks).await > 0).then_some(()).ok_or("it has not looked")).await;
    assert!(ears(&stage).await.is_empty());
    relay.stop().await;
    assert_eq!(slept(&stage).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_transactions_may_be_prepared_no_relay_asks_to_be_woken_and_producers_prepare_theirs() {
    let stage = Stage::on(PgCluster::builder().setting("max_prepared_transactions", "5")).await;
    watch_sleepers(&stage).await;
    let relay = stage.relay(sleepy(&stage)).await;
    eventually(DEADLINE, async || (ears(&stage).await.len() == 1).then_some(()).ok_or("it listens")).await;
    for number in 1..=5 {
        let (begin, insert) =
            ("BEGIN", "SELECT outbox.enqueue('note', '{a@example.org}', subject => 'a', body_text => 'b')");
        let sql = format!("{begin}; {insert}; PREPARE TRANSACTION 'p{number}'");
        stage.sql.batch_execute(&sql).await.expect("prepares");
        stage.sql.batch_execute(&format!("COMMIT PREPARED 'p{number}'")).await.expect("commits");
        stage.until_done(number).await;
    }
    relay.stop().await;
    assert_eq!(slept(&stage).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_sees_producers_wait_for_each_other_asks_no_longer() {
    let stage = Stage::set().await;
    let config = sleepy(&stage);
    let limits = Limits { poll_interval_asleep: Duration::from_millis(300), ..config.limits };
    let relay = stage.relay(RelayConfig { limits, ..config }).await;
    eventually(DEADLINE, async || {
        let asked = stage.count("SELECT count(*) FROM outbox.sleeper").await;
        (asked == 1).then_some(()).ok_or(asked)
    })
    .await;
    // Commits hang behind their notification, one after another.
    let hang = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'; ";
    for sql in [hang, "SELECT pg_reload_conf()"] {
        stage.sql.batch_execute(sql).await.expect("sets");
    }
    let mut producers = Vec::new();
    for _ in 0..3 {
        let client = stage.cluster.client("postgres").await.expect("a client");
        producers.push(tokio::spawn(async move {
            client
                .batch_execute("INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', '{a@example.org}', 'a', 'b')")
                .await
        }));
    }
    eventually(DEADLINE, async || {
        let asked = stage.count("SELECT count(*) FROM outbox.sleeper").await;
        (asked == 0).then_some(()).ok_or(asked)
    })
    .await;
    for sql in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        stage.sql.batch_execute(sql).await.expect("sets");
    }
    for producer in producers {
        producer.await.expect("no panic").expect("commits");
    }
    stage.until_done(3).await;
    relay.stop().await;
}
