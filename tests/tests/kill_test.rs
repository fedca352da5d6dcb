//! The kill test: the number Hapax publishes, the way it is obtained, for anyone to repeat (`make kill-test`).
//!
//! The method is that of the comparison in the README: 2,000 notifications (one recipient, text and HTML, about 1.9 kB
//! rendered) wait in Postgres. The mail server waits 20 ms before its reply to each end marker. The relay is killed
//! (SIGKILL) once the server has read the end markers of 1/6, 2/6, ... 5/6 of them, plus 0 to 40 ms at random, and is started
//! again at once; the last one finishes. Received is what the server has read the end marker of: a real one delivers that,
//! whoever has died meanwhile. Nothing decides doubts, they stay as they are.
//!
//! `HAPAX_KILL_RUNS` is the number of runs, `HAPAX_BIN` the binary, `HAPAX_SEED` the seed of the first run.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use hapax_testkit::SmtpServer;
use hapax_tests::stage::{PATIENCE, Stage};

const MESSAGES: usize = 2_000;
const KILLS: usize = 5;

/// What came of one run.
#[derive(Debug)]
struct Count {
    duplicated: usize,
    never_received: usize,
    never_received_and_not_in_doubt: usize,
    in_doubt: usize,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

/// The message of the comparison: about 1.9 kB as rendered.
const ENQUEUE: &str = "SELECT count(outbox.enqueue(kind => 'bench', recipients => ARRAY['user' || i || '@example.net'],
       subject => format('msg-%s your order has been received', lpad(i::text, 6, '0')),
       body_text => format(E'Hello customer %s,\\n\\n%s\\nKind regards\\nThe Shop\\n', i, repeat(E'Thank you for your order. We have received your payment and are preparing it.\\n', 9)),
       body_html => format(E'<html><body><h1>Order %s</h1>\\n%s<p>Kind regards<br>The Shop</p></body></html>\\n', i, repeat(E'<p style=\"margin:0\">You will get another message with a tracking link soon.</p>\\n', 9))))
     FROM generate_series(1, $1::int) i";

async fn run(random: &mut Rng) -> Count {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(20)).keep_bodies(false).start();
    let stage = Stage::with(server).await;
    let mut settings = stage.settings();
    // The defaults, but for leases and heartbeats: shortened where they can be, as for the others.
    for (key, value) in [
        ("relay.max_in_flight", "64"),
        ("relay.heartbeat_interval", "500ms"),
        ("relay.dead_after", "2s"),
        ("relay.lease", "3s"),
        ("relay.transmit_deadline", "1m"),
        ("relay.final_reply_timeout", "10m"),
        ("relay.shutdown_grace", "11m"),
        ("retry.first", "30s"),
    ] {
        settings = settings.set(key, value);
    }
    stage.sql.query_one(ENQUEUE, &[&i32::try_from(MESSAGES).expect("fits")]).await.expect("enqueues");
    let mut relay = settings.spawn();
    for kill in 1..=KILLS {
        let mark = MESSAGES * kill / (KILLS + 1);
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.all_counts().len() >= mark).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..40_000))).await;
        relay.sigkill();
        relay.wait_exit(Duration::from_secs(10)).await;
        relay = settings.spawn();
    }
    stage.until_settled().await;
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
    let ledger = stage.server.ledger();
    let received: BTreeSet<&str> = ledger.all_counts().keys().map(|(_, recipient)| recipient.as_str()).collect();
    let doubts = stage.sql.query("SELECT recipient FROM outbox.deliveries WHERE state = 'in_doubt'", &[]).await;
    let doubts: BTreeSet<String> = doubts.expect("doubts can be read").iter().map(|row| row.get(0)).collect();
    let all: BTreeSet<String> = (1..=MESSAGES).map(|n| format!("user{n}@example.net")).collect();
    let never: Vec<&String> = all.iter().filter(|one| !received.contains(one.as_str())).collect();
    Count {
        duplicated: ledger.all_counts().values().filter(|counts| counts.end_markers > 1).count(),
        never_received: never.len(),
        never_received_and_not_in_doubt: never.iter().filter(|one| !doubts.contains(**one)).count(),
        in_doubt: doubts.len(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_five_times_in_two_thousand_nothing_is_received_twice_and_what_is_missing_is_in_doubt() {
    let seed = number("HAPAX_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}; of {MESSAGES} messages, after {KILLS} SIGKILLs:");
    for nth in 1..=number("HAPAX_KILL_RUNS").unwrap_or(1) {
        let count = run(&mut Rng::with_seed(seed.wrapping_add(nth - 1))).await;
        println!(
            "run {nth}: duplicated {}, never received {} (and not in doubt {}), in doubt {}",
            count.duplicated, count.never_received, count.never_received_and_not_in_doubt, count.in_doubt
        );
        assert_eq!((count.duplicated, count.never_received_and_not_in_doubt), (0, 0), "{count:?}");
        assert!(count.in_doubt <= KILLS * 64, "{count:?}");
    }
}
