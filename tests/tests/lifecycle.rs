//! A relay whose surroundings are short of something: nobody takes its log, files may hardly be opened, it is started and
//! ended again and again. Mail goes on, each message once.
//!
//! By hand for longer: `make restarts`, `HAPAX_RESTARTS`, `HAPAX_SEED`.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hapax_testkit::{HapaxProcess, SmtpServer, eventually, find_hapax};
use hapax_tests::pgbouncer::is_pooled;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

/// Runs a shell that becomes `"$BIN" --config "$CONF" run` in some way; `$AT` is the directory of the configuration.
fn shell(script: &str, settings: &Settings, directory: &Path) -> HapaxProcess {
    std::fs::write(directory.join("hapax.toml"), settings.toml()).expect("the configuration can be written");
    HapaxProcess::builder()
        .binary("/bin/sh")
        .args(["-c", script])
        .env("BIN", find_hapax())
        .env("CONF", directory.join("hapax.toml"))
        .env("AT", directory)
        .spawn()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_takes_stops_neither_mail_nor_the_end_of_the_relay() {
    let stage = Stage::set().await;
    let directory = tempfile::tempdir().expect("a directory");
    let made = Command::new("mkfifo").arg(directory.path().join("fifo")).status().expect("there is mkfifo");
    assert!(made.success());
    // Open for both, so that the relay's opening waits for nobody; and nobody reads.
    let _unread = File::options().read(true).write(true).open(directory.path().join("fifo")).expect("it can be opened");
    let settings = stage.settings().set("log.level", "trace");
    let mut sent = 0;
    for (what, redirected) in [
        ("a full disk", "2>/dev/full"),
        ("a pipe that nobody reads", ">\"$AT/fifo\" 2>\"$AT/fifo\""),
        ("nothing at all", ">&- 2>&-"),
    ] {
        let mut relay =
            shell(&format!("exec \"$BIN\" --config \"$CONF\" run {redirected}"), &settings, directory.path());
        // More lines than a pipe takes.
        stage.enqueue(300).await;
        sent += 300;
        stage.until("sent", sent).await;
        assert_eq!(relay.status(), None, "{what}");
        relay.sigterm();
        assert_eq!(relay.wait_exit(Duration::from_secs(20)).await.code(), Some(0), "{what}: {}", relay.report());
    }
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(900);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempts WHERE outcome <> 'accepted'").await, 0);
    stage.server.ledger().assert_none_accepted_twice();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_fewer_descriptors_than_connections_mail_waits_for_mail_and_each_is_sent_once() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(30)).start();
    let stage = Stage::with(server).await;
    let directory = tempfile::tempdir().expect("a directory");
    let settings = stage
        .settings()
        .set("relay.max_in_flight", 100)
        .set("routes.default.max_connections", 100)
        .set("http.listen", "127.0.0.1:0")
        .set("retry.cap", "1s");
    stage.enqueue(500).await;
    let mut relay = shell("ulimit -n 64; exec \"$BIN\" --config \"$CONF\" run", &settings, directory.path());
    let said = relay.wait_for_line(|line| line.contains("fewer files may be open")).await;
    assert!(said.contains("\"limit\":64") && said.contains("LimitNOFILE="), "{said}");
    stage.until("sent", 500).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(500);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempts WHERE outcome = 'unknown'").await, 0);
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    let lines = relay.lines();
    assert!(!lines.iter().any(|line| line.contains("a panic")), "{}", relay.report());
    let none = lines.iter().filter(|line| line.contains("Too many open files")).count();
    println!("{} lines, {none} of them of files that could not be opened", lines.len());
}

/// What a relay is ended by, and when.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before or while it starts: so many milliseconds after it was.
    Early { kill: bool, after_ms: u64 },
    /// After so many more messages were taken.
    Working { kill: bool, messages: usize },
}

impl End {
    fn random(random: &mut fastrand::Rng) -> Self {
        let kill = random.bool();
        if random.u8(0..3) == 0 {
            Self::Early { kill, after_ms: random.u64(0..150) }
        } else {
            Self::Working { kill, messages: random.usize(1..4) }
        }
    }
}

async fn one_life(stage: &Stage, settings: &Settings, end: End) {
    let before = stage.server.with_ledger(|ledger| ledger.totals().accepted);
    stage.enqueue(4).await;
    let mut relay = settings.spawn();
    let kill = match end {
        End::Early { kill, after_ms } => {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            kill
        }
        End::Working { kill, messages } => {
            let taken = |ledger: &hapax_testkit::Ledger| ledger.totals().accepted >= before + messages;
            stage.server.wait_until_within(PATIENCE, taken).await;
            kill
        }
    };
    if kill {
        relay.sigkill()
    } else {
        relay.sigterm()
    }
    let code = relay.wait_exit(PATIENCE).await.code();
    // SIGTERM ends a process that has not come as far as listening to it.
    let early = matches!(end, End::Early { .. }) && code.is_none();
    assert!(kill || early || code == Some(0), "{end:?}: {code:?} {}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn started_and_ended_again_and_again_it_leaves_nothing_behind_and_each_message_is_sent_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let lives = number("HAPAX_RESTARTS").unwrap_or(25);
    let seed = number("HAPAX_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}, {lives} lives");
    let mut random = fastrand::Rng::with_seed(seed);
    let stage = Stage::with(SmtpServer::builder().keep_bodies(false).keep_dialogues(false).start()).await;
    let spool = tempfile::tempdir().expect("a directory");
    // Large enough to lie on a disk while it is sent.
    let large = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                 SELECT 'note', ARRAY['large' || i || '@example.org'], 'Large', repeat(repeat('x', 70) || E'\\n', 8000) FROM generate_series(1, 5) i";
    stage.sql.execute(large, &[]).await.expect("enqueues");
    let settings = stage.settings().set("relay.spool_directory", spool.path().display()).set("relay.lease", "1s");
    for life in 1..=lives {
        one_life(&stage, &settings, End::random(&mut random)).await;
        if life % 50 == 0 {
            println!("{life} lives: {:?}", stage.states().await);
        }
    }
    let mut relay = settings.run().await;
    stage.until_settled().await;
    let total = usize::try_from(lives * 4 + 5).expect("not so many");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("{verdict}");
    verdict.assert_clean(total);
    assert!(verdict.twice.is_empty(), "{verdict}");
    // In doubt is what a SIGKILL has cut off, held whose relay died with it again and again.
    let known = ["sent", "in_doubt", "held"].map(|state| verdict.count(state));
    assert_eq!(known.iter().sum::<usize>(), total, "{verdict}");
    assert!(known[0] > 0 && known[2] <= total / 10, "{verdict}");
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    assert_eq!(std::fs::read_dir(spool.path()).expect("it is there").count(), 0, "nothing is left in the spool");
    // Each start has at most one row for thirty days, and nobody takes a dead one for alive.
    let rows = stage.count("SELECT count(*) FROM outbox.relay").await;
    assert!(rows <= i64::try_from(lives).expect("not so many") + 1, "{rows} rows");
    let claimed = "SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL";
    assert_eq!(stage.count(claimed).await, 0);
    eventually(PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hapax%'";
        let connections = stage.count(sql).await;
        // A pooler keeps its own open, under the names of those who used them last.
        if connections == 0 || is_pooled() { Ok(()) } else { Err(connections) }
    })
    .await;
}
