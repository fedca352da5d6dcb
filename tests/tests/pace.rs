//! The rate of a route: reached, and never exceeded by more than its documented bound, measured at the server by
//! CLOCK_MONOTONIC, whatever relays come, go, are slow or are configured anew.

use std::time::{Duration, Instant};

use hapax_testkit::{HapaxProcess, Ledger, SmtpServer, eventually};
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

const LIMIT: &str = "route_rate_limit{route=\"default\"}";

/// Between the moment a turn is taken and the server's clock, on a busy machine.
const JITTER: Duration = Duration::from_millis(100);

async fn enqueue(stage: &Stage, count: i32, route: Option<&str>, priority: &str) {
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, route, priority)
                  SELECT 'note', ARRAY[$3 || i || '@example.org'], 'Hello', 'one', $2, $3 FROM generate_series(1, $1) i";
    stage.sql.execute(insert, &[&count, &route, &priority]).await.expect("enqueues");
}

fn watched(settings: &Settings) -> Settings {
    settings.clone().set("http.listen", "127.0.0.1:0")
}

async fn until_share(probe: &Probe, share: f64) {
    eventually(PATIENCE, async || {
        let scrape = probe.scrape().await;
        let now = scrape.series.get(&format!("hapax_{LIMIT}")).copied();
        (now == Some(share)).then_some(()).ok_or(now)
    })
    .await;
}

/// MAIL commands so far.
fn mails(stage: &Stage) -> usize {
    stage.server.with_ledger(|ledger| ledger.mails().len())
}

/// Waits until there are so many.
async fn until_mails(stage: &Stage, count: usize) {
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.mails().len() >= count).await;
}

/// In every window at most rate x time, and what may be saved: half a second's worth and one of each relay.
fn assert_paced(mails: &[Instant], rate: f64, relays: f64) {
    let saved = rate * 0.5 + relays + rate * JITTER.as_secs_f64();
    for (from, first) in mails.iter().enumerate() {
        for (more, last) in mails[from..].iter().enumerate() {
            let (count, time) = (more as f64 + 1.0, last.duration_since(*first).as_secs_f64());
            assert!(count <= rate * time + saved + 1.0, "{count} in {time} s from {from}, at most {rate}/s");
        }
    }
}

/// How many a second.
fn speed(mails: &[Instant]) -> f64 {
    let (Some(first), Some(last)) = (mails.first(), mails.last()) else { panic!("nothing was sent") };
    (mails.len() - 1) as f64 / last.duration_since(*first).as_secs_f64()
}

async fn reload(relay: &HapaxProcess, settings: &Settings) {
    std::fs::write(relay.directory().join("hapax.toml"), settings.toml()).expect("written");
    let mark = relay.lines().len();
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains("it holds from now on")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_reach_a_rate_together_and_the_survivor_takes_it_over_while_another_route_is_as_fast_as_ever() {
    let (stage, second) = (Stage::set().await, SmtpServer::start());
    let settings = watched(&stage.settings())
        .set("routes.default.rate", "20/s")
        .set("routes.fast.url", format!("smtp://127.0.0.1:{}?starttls=none", second.port()))
        .set("routes.fast.from", "Shop <no-reply@shop.example>");
    let (first, other) = (settings.run().await, settings.run().await);
    let (probe, of_other) = (Probe::of(&first).await, Probe::of(&other).await);
    until_share(&probe, 10.0).await;
    until_share(&of_other, 10.0).await;
    enqueue(&stage, 500, None, "bulk").await;
    until_mails(&stage, 10).await;
    let (began, before) = (Instant::now(), mails(&stage));
    enqueue(&stage, 300, Some("fast"), "normal").await;
    second.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted == 300).await;
    let (took, meanwhile) = (began.elapsed(), mails(&stage) - before);
    assert!(meanwhile < 150, "300 by the other route took {took:?}, time for {meanwhile} of the rated one");
    until_mails(&stage, 70).await;
    let scrape = probe.scrape().await;
    assert!(scrape.has("hapax_route_waiting_for_rate{route=\"fast\"}"), "{}", scrape.text);
    stage.enqueue_one("urgent@example.org", ", priority => 'urgent'").await;
    let (committed, mut at) = (mails(&stage), 0);
    let is_there = |ledger: &Ledger| {
        at = ledger.mails().len();
        ledger.count_rcpt_commands("urgent@example.org") > 0
    };
    stage.server.wait_until_within(PATIENCE, is_there).await;
    // What had its turn: a tenth of a second's worth, and what came between commit and look.
    println!("{} of 500 went before the urgent one", at - committed);
    assert!(at - committed <= 12, "{} went before the urgent one", at - committed);
    let together = stage.server.with_ledger(|ledger| ledger.mails().to_vec());
    other.sigkill();
    until_share(&probe, 20.0).await;
    let alone = mails(&stage);
    until_mails(&stage, alone + 50).await;
    let all = stage.server.with_ledger(|ledger| ledger.mails().to_vec());
    let (both, survivor) = (speed(&together[10..]), speed(&all[alone..]));
    println!("of 20/s: {both:.1} by two, {survivor:.1} by the survivor; the other route: 300 in {took:?}");
    assert!(both >= 18.0 && survivor >= 18.0, "{both}, {survivor}");
    assert_paced(&all, 20.0, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_slow_server_nor_a_reload_saves_up_a_burst_and_a_rate_that_is_taken_away_is_gone() {
    let stage = Stage::set().await;
    let settings = watched(&stage.settings());
    let limited = settings.clone().set("routes.default.rate", "30/s");
    let relay = limited.run().await;
    let probe = Probe::of(&relay).await;
    enqueue(&stage, 600, None, "normal").await;
    until_mails(&stage, 30).await;
    let hold = stage.server.hold_final_reply();
    hold.wait_for(16).await;
    // Every connection waits for its reply; a second and a half passes.
    let beat = "SELECT max(beat) FROM outbox.relay";
    let began = stage.count(beat).await;
    eventually(PATIENCE, async || (stage.count(beat).await >= began + 8).then_some(()).ok_or(began)).await;
    let claimed = stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL AND intent IS NULL").await;
    assert!(claimed <= 18, "{claimed} are claimed: what cannot be sent soon is nobody's");
    let held = mails(&stage);
    hold.release();
    until_mails(&stage, held + 60).await;
    reload(&relay, &settings.clone().set("routes.default.rate", "10/s")).await;
    until_share(&probe, 10.0).await;
    let slower = mails(&stage);
    until_mails(&stage, slower + 12).await;
    let all = stage.server.with_ledger(|ledger| ledger.mails().to_vec());
    assert_paced(&all, 30.0, 1.0);
    assert_paced(&all[slower..], 10.0, 1.0);
    let (fast, slow) = (speed(&all[held + 18..slower]), speed(&all[slower..]));
    println!("of 30/s {fast:.1}, after the reload of 10/s {slow:.1}");
    assert!(fast >= 25.0 && slow >= 8.0, "{fast}, {slow}");
    reload(&relay, &settings).await;
    stage.until("sent", 600).await;
    let scrape = probe.scrape().await;
    assert!(!scrape.has("hapax_route_rate_limit"), "{}", scrape.text);
    assert_eq!(scrape.value("route_waiting_for_rate{route=\"default\"}"), 0.0);
    let rest = stage.server.with_ledger(|ledger| ledger.mails()[all.len()..].to_vec());
    assert!(speed(&rest) > 60.0, "{}", speed(&rest));
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_warms_up_keeps_to_the_volume_of_its_day_and_is_free_after_the_last() {
    let stage = Stage::set().await;
    let today = stage.text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[]).await.expect("a date");
    let long_ago = stage.text("SELECT to_char(now() - interval '9 days', 'YYYY-MM-DD')", &[]).await.expect("a date");
    // 10 and 20 a second; the second day may begin while this runs.
    let warm = |starts: &str| {
        watched(&stage.settings())
            .set("routes.default.rate", "100/s")
            .set("routes.default.warm_up.starts", starts)
            .set("routes.default.warm_up.daily", "864000, 1728000")
    };
    let (one, mut two) = (warm(&today).run().await, warm(&today).run().await);
    let probe = Probe::of(&one).await;
    let share = "hapax_route_rate_limit{route=\"default\"}";
    eventually(PATIENCE, async || {
        let now = probe.scrape().await.series.get(share).copied();
        (now == Some(5.0) || now == Some(10.0)).then_some(()).ok_or(now)
    })
    .await;
    enqueue(&stage, 400, None, "normal").await;
    until_mails(&stage, 60).await;
    let mails = stage.server.with_ledger(|ledger| ledger.mails().to_vec());
    assert_paced(&mails, 20.0, 2.0);
    assert!(speed(&mails[10..]) >= 9.0, "{}", speed(&mails[10..]));
    two.sigterm();
    assert!(two.wait_exit(PATIENCE).await.success());
    reload(&one, &warm(&long_ago)).await;
    until_share(&probe, 100.0).await;
    stage.until("sent", 400).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(400);
    assert!(verdict.twice.is_empty());
}
