//! `hapax reconcile` and `hapax resolve` for many, with the whole binary: a relay is killed while a real Postfix takes its
//! mail; what Postfix's own log says is compared with the Maildirs.

use hapax_testkit::{HapaxProcess, eventually};
use hapax_tests::mailbox;
use hapax_tests::postfix::Postfix;
use hapax_tests::stage::{DOMAIN, PATIENCE, Settings, Stage};

const PEOPLE: [&str; 3] = ["ada@example.org", "bob@example.org", "eve@example.net"];

async fn postfix() -> Option<Postfix> {
    match Postfix::available() {
        Ok(()) => Some(Postfix::start(&PEOPLE).await),
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

fn mails(postfix: &Postfix) -> usize {
    (0..PEOPLE.len()).map(|number| mailbox::count(&postfix.maildir(number))).sum()
}

/// Message-ID and reader of everything that lies in the Maildirs, sorted.
fn arrived(postfix: &Postfix) -> Vec<(String, String)> {
    let of = |(number, reader): (usize, &&str)| {
        let mails = mailbox::read(&postfix.maildir(number));
        let reader = (*reader).to_owned();
        mails.into_iter().map(move |mail| (mailbox::parse(&mail).message_id, reader.clone())).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = PEOPLE.iter().enumerate().flat_map(of).collect();
    all.sort();
    all
}

/// Kills a relay at `point`, for the `nth` delivery that passes it.
async fn killed_at(settings: &Settings, point: &str, nth: u32) {
    let fault = format!("{point}:kill:{nth}");
    let mut relay = HapaxProcess::builder().config(settings.toml()).env("HAPAX_FAULT", &fault).arg("run").spawn();
    relay.wait_exit(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_real_postfix_logged_settles_every_doubt_of_killed_relays_as_the_maildirs_say() {
    let Some(postfix) = postfix().await else { return };
    let stage = Stage::set().await;
    let url = format!("smtp://127.0.0.1:{}?starttls=none", postfix.smtp());
    let settings = stage.settings().set("routes.default.url", &url).set("relay.max_in_flight", 8);
    let operator = stage.settings_of("operator").set("routes.default.url", &url);
    // A third each to one, two and three people.
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                  SELECT 'note', ($1::text[])[1 : 1 + i % 3], 'Hello ' || i, 'one' FROM generate_series(1, 60) i";
    let people: Vec<String> = PEOPLE.map(str::to_owned).to_vec();
    stage.sql.execute(insert, &[&people]).await.expect("enqueues");
    let deliveries = stage.count("SELECT count(*) FROM outbox.queue").await;
    // The log must cover the time before the first intent.
    let began = "SELECT ceil(6 - extract(epoch FROM clock_timestamp() - min(created_at)))::int8 FROM outbox.message";
    eventually(PATIENCE, async || {
        let left = stage.count(began).await;
        if left <= 0 { Ok(()) } else { Err(left) }
    })
    .await;
    // In front of the marker (nothing arrives), behind it, and behind the reply (all arrives).
    for (point, nth) in [("intended", 9), ("marker_begun", 7), ("marker_written", 11), ("reply_read", 5)] {
        killed_at(&settings, point, nth).await;
    }
    let relay = settings.run().await;
    stage.until_settled().await;
    let doubts = stage.count("SELECT count(*) FROM outbox.in_doubt").await;
    assert!(doubts >= 4, "{doubts}");
    // Postfix has finished with what it took.
    eventually(PATIENCE, async || {
        let (log, boxes) = (postfix.log(), mails(&postfix));
        let (active, delivered) = (log.matches("(queue active)").count(), log.matches("status=sent").count());
        (active == delivered && delivered == boxes).then_some(()).ok_or((active, delivered, boxes))
    })
    .await;
    let before = arrived(&postfix);

    // While the attempts may be alive, only what is in the log is decided.
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("postfix.log");
    std::fs::write(&log, postfix.log()).expect("it can be written");
    let path = log.display().to_string();
    let command =
        ["reconcile", "--postfix-log", &path, "--utc-offset", "+00:00", "--route", "default", "--margin", "5s"];
    let dry: Vec<&str> = command.iter().copied().chain(["--dry-run", "--json"]).collect();
    let (_, output) = operator.command(dry).await;
    assert!(!output.contains("\"would be pending again\""), "{output}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, doubts, "dry");
    let (_, output) = operator.command(command).await;
    println!("{output}");
    assert!(PEOPLE.iter().all(|person| !output.contains(person)), "an address was shown:\n{output}");
    let ids = "SELECT count(*) FROM outbox.done WHERE evidence = 'report'";
    let reported = stage.count(ids).await;
    let left = stage.count("SELECT count(*) FROM outbox.in_doubt").await;
    assert!(reported >= 1 && left >= 1 && reported + left == doubts, "{reported} and {left} of {doubts}");

    // Their relays are gone for good: a grace of nothing, which the living relay sees out. The log goes on meanwhile.
    stage.sql.batch_execute("UPDATE outbox.relay SET doubt_grace = '1 s' WHERE incarnation IN (SELECT relay_incarnation FROM outbox.in_doubt)").await.expect("updates");
    eventually(PATIENCE, async || {
        let alive = stage.count("SELECT count(*) FROM outbox.in_doubt WHERE may_be_alive").await;
        if alive == 0 { Ok(()) } else { Err(alive) }
    })
    .await;
    let over = "SELECT ceil(extract(epoch FROM max(greatest(doubt_since, may_be_alive_until)) - now()) + 7)::int8 FROM outbox.in_doubt";
    eventually(PATIENCE, async || {
        let left = stage.count(over).await;
        if left <= 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let last = stage.enqueue_one(PEOPLE[0], "").await;
    let sent = "SELECT count(*) FROM outbox.done WHERE message_id = $1";
    eventually(PATIENCE, async || {
        let count: i64 = stage.sql.query_one(sent, &[&last]).await.expect("counts").get(0);
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
    eventually(PATIENCE, async || {
        let log = postfix.log();
        let delivered = log.matches("status=sent").count();
        (delivered == before.len() + 1).then_some(()).ok_or(delivered)
    })
    .await;
    std::fs::write(&log, postfix.log()).expect("it can be written");
    // The log of another server proves nothing.
    let strange = [
        "reconcile",
        "--postfix-log",
        &path,
        "--utc-offset",
        "+00:00",
        "--margin",
        "5s",
        "--server",
        "mx9.example.com",
    ];
    let (code, output) = operator.command(strange).await;
    assert!(code == 1 && output.contains("--server 127.0.0.1"), "{code}: {output}");
    assert!(output.contains("no doubt went to server mx9.example.com"), "{output}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, left);
    let (code, output) = operator.command(command).await;
    println!("{output}");
    assert_eq!(code, 0, "{output}");
    stage.until("sent", deliveries + 1).await;
    let (code, output) = operator.command(command).await;
    assert!(code == 0 && output.contains("nothing is in doubt"), "again: {output}");

    // The oracle: each once in its Maildir.
    let expected = usize::try_from(deliveries + 1).expect("few");
    eventually(PATIENCE, async || (mails(&postfix) >= expected).then_some(()).ok_or_else(|| mails(&postfix))).await;
    let after = arrived(&postfix);
    let mut wanted: Vec<(String, String)> = Vec::new();
    for row in stage.sql.query("SELECT message_id::text, recipient FROM outbox.deliveries", &[]).await.expect("reads") {
        wanted.push((format!("{}@{DOMAIN}", row.get::<_, &str>(0)), row.get(1)));
    }
    wanted.sort();
    assert_eq!(after, wanted, "each once");
    assert_eq!(stage.count("SELECT sum(resends)::int8 FROM outbox.done").await, 0, "nothing was a resend");
    println!(
        "{deliveries} deliveries, {doubts} in doubt after 4 kills: {reported} by Postfix's log sent, {left} not sent and sent afterwards, {} mails",
        after.len()
    );
    drop(relay);
}
