//! What a route does when its server fails, asks for less, or is gone: it rests and probes with one delivery, takes fewer
//! connections, and hands what was never begun to its fallback; no message pays for it with an attempt.

use std::time::Duration;

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

const BLOCKED: &str = "route_blocked{route=\"default\"}";
const CONNECTIONS: &str = "route_connections_limit{route=\"default\"}";
/// Finished attempts of all deliveries, at most.
const ATTEMPTS: &str = "SELECT coalesce(max(attempt_no), 0)::bigint FROM outbox.done";

fn watched(stage: &Stage) -> Settings {
    stage.settings().set("http.listen", "127.0.0.1:0")
}

async fn until(probe: &Probe, series: &str, fits: impl Fn(f64) -> bool) {
    eventually(PATIENCE, async || {
        let value = probe.scrape().await.value(series);
        fits(value).then_some(()).ok_or(value)
    })
    .await;
}

/// Waits until `hapax status` says so, or no more.
async fn until_status(stage: &Stage, word: &str, there: bool) {
    eventually(PATIENCE, async || {
        let (code, said) = stage.settings_of("viewer").command(["status"]).await;
        (code == 0 && said.contains(word) == there).then_some(()).ok_or(said)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_fails_rests_probes_with_one_delivery_and_no_message_pays_for_it() {
    let too_many = Fault::Custom(b"421 4.7.0 too many connections from you\r\n".to_vec());
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(Phase::Greeting, too_many)).start()).await;
    let relay = watched(&stage).run().await;
    let probe = Probe::of(&relay).await;
    stage.enqueue(60).await;
    until(&probe, BLOCKED, |value| value == 1.0).await;
    until_status(&stage, "resting", true).await;
    let refused = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent' AND phase = 'greeting'";
    assert!(stage.count(refused).await <= 20, "no more than there were couriers, and some probes");
    assert_eq!(stage.count("SELECT max(attempt_no)::bigint FROM outbox.queue").await, 0, "none counts");
    // What it gave back, or never had, says why it waits.
    let untried = "SELECT min(message_id::text) FROM outbox.deliveries d WHERE state = 'pending'
                   AND NOT EXISTS (SELECT FROM outbox.attempt a WHERE a.message_id = d.message_id)";
    eventually(PATIENCE, async || {
        let untried = stage.text(untried, &[]).await.ok_or("all are in hand")?;
        let (_, shown) = stage.settings_of("viewer").command(["show", &untried]).await;
        let told = shown.contains("No attempt has been made yet") && shown.contains("Route default rests on relay ");
        told.then_some(()).ok_or("it does not say why")
    })
    .await;
    let hold = stage.server.hold(Phase::Greeting);
    stage.server.script(Script::good());
    hold.wait_for(1).await;
    // Five heartbeats pass, a second: nobody else comes along.
    let beat = "SELECT max(beat) FROM outbox.relay";
    let began = stage.count(beat).await;
    eventually(PATIENCE, async || (stage.count(beat).await >= began + 5).then_some(()).ok_or(began)).await;
    assert_eq!(hold.arrived(), 1, "one probe");
    assert!(stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL").await <= 1);
    hold.release();
    stage.until("sent", 60).await;
    until(&probe, BLOCKED, |value| value == 0.0).await;
    until_status(&stage, "resting", false).await;
    assert_eq!(stage.count(ATTEMPTS).await, 1);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_less_gets_fewer_connections_and_no_message_pays_for_it() {
    let too_much = Fault::Custom(b"450 4.7.1 Error: too much mail from 127.0.0.1\r\n".to_vec());
    let script = Script::rules([Rule::at(Phase::Rcpt, too_much).times(5)]);
    let stage =
        Stage::with(SmtpServer::builder().script(script).final_reply_delay(Duration::from_millis(20)).start()).await;
    let relay = watched(&stage).run().await;
    let probe = Probe::of(&relay).await;
    assert_eq!(probe.scrape().await.value(CONNECTIONS), 16.0);
    stage.enqueue(40).await;
    stage.until("sent", 40).await;
    let deferred = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'deferred' AND enhanced = '4.7.1'";
    assert_eq!(stage.count(deferred).await, 5);
    assert_eq!(stage.count(ATTEMPTS).await, 1, "a hint is no attempt of a message");
    let slowed = probe.scrape().await.value(CONNECTIONS);
    assert!(slowed < 16.0, "{slowed}");
    until_status(&stage, "slowed", true).await;
    // And a server that takes four connections and refuses the fifth.
    stage.server.connections_max(4);
    stage.server.restart().await;
    let before = stage.server.with_ledger(|ledger| ledger.connections().len());
    stage.enqueue(100).await;
    stage.until("sent", 140).await;
    let tried = stage.server.with_ledger(|ledger| ledger.connections().len()) - before;
    println!("slowed to {slowed}; {tried} connections were tried for 100 messages with four at once");
    assert!(tried <= 24, "{tried} connections were tried");
    until(&probe, CONNECTIONS, |value| value <= 6.0).await;
    assert_eq!(stage.count(ATTEMPTS).await, 1);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(140);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_fallback_keeps_nothing_from_the_route_that_works_again() {
    let (stage, backup) = (Stage::set().await, SmtpServer::start());
    let settings = watched(&stage)
        .set("routes.default.fallback", "backup")
        .set("routes.backup.url", format!("smtp://127.0.0.1:{}?starttls=none", backup.port()))
        .set("routes.backup.from", "Backup <backup@shop.example>");
    let (relay, _other) = (settings.run().await, settings.run().await);
    let probe = Probe::of(&relay).await;
    stage.text("SELECT outbox.pause(route => 'backup', reason => 'for the weekend')", &[]).await.expect("paused");
    // Known to both within half a second; ten heartbeats, two seconds, pass.
    let beat = "SELECT min(beat) FROM outbox.relay";
    let heartbeats = async |count| {
        let began = stage.count(beat).await;
        eventually(PATIENCE, async || (stage.count(beat).await >= began + count).then_some(()).ok_or(began)).await;
    };
    heartbeats(10).await;
    stage.server.stop().await;
    stage.enqueue(20).await;
    until(&probe, BLOCKED, |value| value == 1.0).await;
    heartbeats(5).await;
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NOT NULL").await,
        0,
        "it waits for its own"
    );
    stage.server.restart().await;
    stage.until("sent", 20).await;
    assert_eq!(backup.with_ledger(|ledger| ledger.count_mail_commands()), 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_takes_what_was_never_begun_and_nothing_else() {
    let script = Script::rules([
        Rule::at(Phase::EndMarker { took: true }, Fault::Eof).recipient("doubt@example.org"),
        Rule::at(Phase::EndMarker { took: false }, Fault::Reply4xx).recipient("deferred@example.org"),
    ]);
    let (stage, backup) = (Stage::with(SmtpServer::builder().script(script).start()).await, SmtpServer::start());
    let settings = watched(&stage)
        .set("retry.first", "2s")
        .set("routes.default.fallback", "backup")
        .set("routes.backup.url", format!("smtp://127.0.0.1:{}?starttls=none", backup.port()))
        .set("routes.backup.from", "Backup <backup@shop.example>");
    let (relay, _other) = (settings.run().await, settings.run().await);
    let probe = Probe::of(&relay).await;
    stage.enqueue_one("doubt@example.org", "").await;
    stage.enqueue_one("deferred@example.org", "").await;
    stage.until_state("doubt@example.org", "in_doubt").await;
    let deferred = "SELECT count(*) FROM outbox.attempt WHERE outcome = 'deferred'";
    eventually(PATIENCE, async || (stage.count(deferred).await > 0).then_some(()).ok_or("not yet")).await;
    stage.server.stop().await;
    stage.enqueue(40).await;
    stage.until("sent", 40).await;
    assert_eq!(backup.with_ledger(|ledger| ledger.totals().accepted), 40);
    let from = backup.with_ledger(|ledger| ledger.messages().next().and_then(|message| message.header("From")));
    assert!(from.as_deref().is_some_and(|from| from.contains("backup@shop.example")), "{from:?}");
    assert_eq!(stage.count(ATTEMPTS).await, 1);
    // What had an intent waits for its own route, whatever came of it.
    for address in ["doubt@example.org", "deferred@example.org"] {
        assert_eq!(backup.with_ledger(|ledger| ledger.count_rcpt_commands(address)), 0, "{address}");
    }
    assert_eq!(stage.state_of("doubt@example.org").await.0, "in_doubt");
    until_status(&stage, "resting", true).await;
    stage.server.script(Script::good());
    stage.server.restart().await;
    stage.until_state("deferred@example.org", "sent").await;
    stage.until("sent", 41).await;
    // The route works again: what follows goes its way, as soon as each relay has tried it.
    eventually(PATIENCE, async || {
        stage.enqueue(1).await;
        let blocked = probe.scrape().await.value(BLOCKED);
        let taken = stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("r1@example.org"));
        (taken > 0 && blocked == 0.0).then_some(()).ok_or((taken, blocked))
    })
    .await;
    stage.until_settled().await;
    assert_eq!(backup.with_ledger(|ledger| ledger.count_rcpt_commands("doubt@example.org")), 0);
    backup.with_ledger(|ledger| ledger.assert_none_accepted_twice());
    stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
    let twice = "SELECT count(*) FROM (SELECT 1 FROM outbox.attempt WHERE outcome IN ('accepted', 'unknown')
                 GROUP BY message_id, recipient_no HAVING count(*) > 1) x";
    assert_eq!(stage.count(twice).await, 0);
}
