//! Relays that share a queue, and relays that are killed: nothing is accepted twice, nothing is lost, and what nobody
//! can know is in doubt, bounded, and decided by people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use hapax_testkit::{SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

fn seed() -> u64 {
    let seed = std::env::var("HAPAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}");
    seed
}

/// Finished attempts by the name of the relay.
async fn attempts_by_relay(stage: &Stage, outcome: &str) -> BTreeMap<String, i64> {
    let sql = "SELECT r.name || '/' || r.incarnation, count(*) FROM outbox.attempt a JOIN outbox.relay r ON r.incarnation = a.relay
               WHERE a.outcome = $1 GROUP BY 1";
    let rows = stage.sql.query(sql, &[&outcome]).await.expect("attempts can be read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc01_two_relays_share_five_thousand_deliveries_each_accepted_once_and_neither_starves() {
    let stage = Stage::set().await;
    let relays =
        [stage.settings().set("relay.name", "a").run().await, stage.settings().set("relay.name", "b").run().await];
    let started = Instant::now();
    stage.enqueue(5_000).await;
    stage.until("sent", 5_000).await;
    let took = started.elapsed();
    for mut relay in relays {
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_each_once(5_000);
    let shares = attempts_by_relay(&stage, "accepted").await;
    println!("5000 deliveries by two relays in {took:.1?}: {:?}", shares.values().collect::<Vec<_>>());
    assert!(shares.len() == 2 && shares.values().all(|share| *share >= 1_000), "{shares:?}");
    assert_eq!(
        stage.server.with_ledger(|ledger| ledger.count_mail_commands()),
        5_000,
        "no delivery was even tried twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc22_a_relay_killed_five_times_at_random_leaves_bounded_doubt_and_no_duplicate() {
    const DELIVERIES: i32 = 2_000;
    const KILLS: usize = 5;
    const IN_FLIGHT: i64 = 24;
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(20)).start();
    let stage = Stage::with(server).await;
    let mut random = Rng::with_seed(seed());
    let settings = stage.settings().set("relay.max_in_flight", IN_FLIGHT);
    stage.enqueue(DELIVERIES).await;
    let mut relay = settings.run().await;
    for kill in 0..KILLS {
        // Somewhere within the next share of the work, and then somewhere within a dialogue.
        let seen = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
        let after = seen + random.usize(1..=300);
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().end_markers >= after).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..30_000))).await;
        relay.sigkill();
        relay.wait_exit(Duration::from_secs(10)).await;
        // At this very moment: whatever the server has taken, the database either knows, or knows that it does not.
        let now = Verdict::of(&stage.sql, &stage.server.ledger()).await;
        now.assert_clean(2_000);
        println!("kill {}: {now}", kill + 1);
        relay = settings.run().await;
    }
    stage.until_settled().await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(2_000);
    println!("after {KILLS} kills: {verdict}");
    assert!(verdict.twice.is_empty(), "{verdict}");
    assert_eq!(verdict.count("sent") + verdict.count("in_doubt"), 2_000, "{verdict}");
    let doubts = attempts_by_relay(&stage, "unknown").await;
    println!("in doubt by incarnation: {:?}", doubts.values().collect::<Vec<_>>());
    assert!(doubts.values().all(|count| *count <= IN_FLIGHT), "{doubts:?}");

    let resolved = resolve_all(&stage, &settings, "resend").await;
    assert_eq!(resolved, verdict.count("in_doubt"));
    stage.until("sent", 2_000).await;
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
    let after = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    after.assert_clean(2_000);
    assert_eq!(after.count("sent"), 2_000, "{after}");
    // Only what a person decided to send again was taken twice.
    assert!(after.twice.iter().all(|(_, accepted, resends)| *accepted == 2 && *resends == 1), "{after}");
    assert!(after.twice.len() <= resolved, "{after}");
    println!("{resolved} in doubt were sent again, {} of them had been taken before", after.twice.len());
}

/// Decides every doubt with `hapax resolve`, by token, as an operator; answers how many there were.
async fn resolve_all(stage: &Stage, settings: &Settings, verdict: &str) -> usize {
    let rows = stage.sql.query("SELECT token::text FROM outbox.in_doubt", &[]).await.expect("doubts can be read");
    let tokens: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if tokens.is_empty() {
        return 0;
    }
    let operator = settings.clone().set("database.url", stage.cluster.url_for("postgres", "operator"));
    let tail = [verdict, "--force", "--reason", "the relay is gone"];
    let arguments = || ["resolve"].into_iter().chain(tokens.iter().map(String::as_str)).chain(tail);
    let (code, output) = operator.command(arguments()).await;
    assert_eq!(code, 0, "{output}");
    // RC-46: the script that runs twice decides nothing more.
    let before = stage.count("SELECT sum(resends)::bigint FROM outbox.deliveries").await;
    let (_, output) = operator.command(arguments()).await;
    assert_eq!(stage.count("SELECT sum(resends)::bigint FROM outbox.deliveries").await, before, "{output}");
    tokens.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_with_replies_outstanding_leaves_exactly_those_in_doubt_and_late_evidence_is_not_guessed() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = stage.settings().set("routes.default.max_connections", 8);
    let mut relay = settings.run().await;
    stage.enqueue(100).await;
    hold.wait_for(8).await;
    relay.sigkill();
    relay.wait_exit(Duration::from_secs(10)).await;
    hold.release();
    let relay = settings.run().await;
    stage.until_settled().await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(100);
    assert_eq!((verdict.count("in_doubt"), verdict.count("sent"), verdict.accepted), (8, 92, 100), "{verdict}");
    // Each doubt says what happened, and by whom; sending again unforced is refused while the dead one may wake up.
    let doubts = stage
        .count("SELECT count(*) FROM outbox.in_doubt WHERE marked_by = 'reaper' AND may_be_alive_until > now()")
        .await;
    assert_eq!(doubts, 8);
    let token = stage.text("SELECT token::text FROM outbox.in_doubt LIMIT 1", &[]).await.expect("a token");
    let operator = stage.settings_of("operator");
    let (code, output) = operator.command(["resolve", &token, "resend", "--reason", "impatience"]).await;
    assert!(code == 1 && output.contains("too early"), "{code}: {output}");
    let (code, output) = operator.command(["resolve", &token, "sent", "--reason", "in the log of mx1"]).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent' AND evidence = 'operator'").await, 1);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc06_rc42_a_relay_started_twice_by_mistake_under_the_same_name_does_no_harm_even_when_one_is_killed() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(10)).start();
    let stage = Stage::with(server).await;
    let settings = stage.settings().set("relay.name", "the-only-one");
    let (first, mut second) = (settings.run().await, settings.run().await);
    stage.enqueue(800).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 300).await;
    first.sigkill();
    stage.until_settled().await;
    second.sigterm();
    assert!(second.wait_exit(Duration::from_secs(30)).await.success(), "{}", second.report());
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(800);
    assert!(verdict.twice.is_empty() && verdict.count("in_doubt") <= 32, "{verdict}");
    println!("{verdict}");
    // The living one never spoke for the dead one: its doubts were marked, with the dead one's name and incarnation.
    eventually(PATIENCE, async || {
        stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS DISTINCT FROM 'doubt'").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc05_rc35_a_relay_suspended_for_longer_than_every_lease_sends_nothing_twice_when_it_wakes_up() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(10)).start();
    let stage = Stage::with(server).await;
    let settings =
        stage.settings().set("relay.lease", "1s").set("relay.dead_after", "1s").set("relay.transmit_deadline", "1s");
    let (mut sleeper, mut other) = (settings.run().await, settings.clone().set("relay.name", "other").run().await);
    stage.enqueue(600).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 150).await;
    sleeper.sigstop();
    // The other one finishes: it takes over leases, and marks the sleeper's intents in doubt.
    stage.until_settled().await;
    let asleep = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("asleep: {asleep}");
    sleeper.sigcont();
    // Awake, it either learns the truth about its own (late replies win) or knows no more than we do; it sends nothing.
    stage.enqueue(100).await;
    eventually(PATIENCE, async || stage.count("SELECT count(*) FROM outbox.done").await >= 700 - 32).await;
    for relay in [&mut sleeper, &mut other] {
        relay.sigterm();
        relay.wait_exit(Duration::from_secs(60)).await;
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("awake: {verdict}");
    assert!(verdict.twice.is_empty(), "{verdict}");
    assert!(verdict.wrong.is_empty(), "{:?}", verdict.wrong);
    assert!(verdict.count("in_doubt") <= asleep.count("in_doubt"), "{verdict}");
}
