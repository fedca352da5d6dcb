//! What happens around one delivery while it is sent: leases that run out, other servers that could be asked, bodies that
//! break off, rows that somebody else holds, batches with a bad one in them, wake-ups, a process that sleeps too long.

use std::collections::BTreeSet;
use std::time::Duration;

use hapax_testkit::{Fault, HapaxProcess, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

const TOOK: Phase = Phase::EndMarker { took: true };

fn with_fault(settings: &Settings, fault: &str) -> HapaxProcess {
    HapaxProcess::builder().config(settings.toml()).env("HAPAX_FAULT", fault).arg("run").spawn()
}

/// Waits until the process stands still.
async fn until_stopped(relay: &HapaxProcess) {
    let stat = format!("/proc/{}/stat", relay.id());
    eventually(PATIENCE, async || {
        let text = std::fs::read_to_string(&stat).unwrap_or_default();
        text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(()).ok_or(text)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc04_a_final_reply_that_comes_four_leases_late_is_waited_for_and_nobody_claims_it_meanwhile() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.lease", "1s").set("relay.final_reply_timeout", "20s");
    let relays = [settings.run().await, settings.clone().set("relay.name", "other").run().await];
    let hold = stage.server.hold_final_reply();
    stage.enqueue(8).await;
    hold.wait_for(8).await;
    let late = "SELECT count(*) FROM outbox.queue WHERE intent_at < clock_timestamp() - interval '4 seconds'";
    eventually(PATIENCE, async || stage.count(late).await == 8).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE claims = 1 AND intents = 1").await, 8);
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 8);
    hold.release();
    stage.until("sent", 8).await;
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 8);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(8);
    drop(relays);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc15_what_one_server_may_have_taken_is_never_offered_to_another() {
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(TOOK, Fault::Stall)).start()).await;
    let second = SmtpServer::start();
    let settings = stage
        .settings()
        .set("relay.final_reply_timeout", "1s")
        .set("routes.backup.url", format!("smtp://127.0.0.1:{}?starttls=none", second.port()))
        .set("routes.backup.from", "Shop <no-reply@shop.example>");
    let relay = settings.run().await;
    stage.enqueue(6).await;
    stage.until("in_doubt", 6).await;
    // The first goes away altogether, relays come and go: there is another server, and nothing of the six for it.
    stage.server.stop().await;
    drop(relay);
    let _relays = [settings.run().await, settings.clone().set("relay.name", "other").run().await];
    stage.enqueue_one("backup@example.org", ", route => 'backup'").await;
    stage.until_state("backup@example.org", "sent").await;
    stage.until("in_doubt", 6).await;
    let taken: Vec<Vec<String>> = second.ledger().transactions().map(|one| one.recipients.clone()).collect();
    assert_eq!(taken, [["backup@example.org".to_owned()]]);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc16_content_that_fails_while_it_is_rendered_reaches_no_server() {
    let stage = Stage::set().await;
    let templates = tempfile::tempdir().expect("a directory");
    let kind = templates.path().join("broken");
    std::fs::create_dir(&kind).expect("it is new");
    std::fs::write(kind.join("subject.txt"), "Order").expect("it can be written");
    // Half a mail is there before it fails.
    std::fs::write(
        kind.join("body.txt"),
        "Dear customer,\n{% for item in items %}{{ item.price / item.count }}\n{% endfor %}Bye\n",
    )
    .expect("it can be written");
    let _relay = stage.settings().set("templates.directory", templates.path().display()).run().await;
    let insert = "SELECT outbox.enqueue(kind => 'broken', recipients => ARRAY['ada@example.org'],
                  payload => '{\"items\": [{\"price\": 4, \"count\": 2}, {\"price\": \"four\", \"count\": {}}]}'::json)";
    stage.sql.execute(insert, &[]).await.expect("enqueues");
    let reason = stage.until_state("ada@example.org", "failed").await;
    println!("{reason}");
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), 0);
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc16_a_body_that_breaks_off_has_no_end_marker_and_the_whole_of_it_is_sent_later() {
    // So early, and of bodies so long, that the kernel cannot have taken the whole of one.
    let early = Phase::Body { percent: 0 };
    let script = Script::rules([
        Rule::at(early, Fault::Reset).recipient("reset@example.org").times(1),
        Rule::at(early, Fault::Stall).recipient("stall@example.org").times(1),
    ]);
    let server = SmtpServer::builder().script(script).receive_buffer_bytes(65_536).start();
    let stage = Stage::with(server).await;
    let _relay = stage.settings().set("relay.body_timeout", "1s").run().await;
    for name in ["reset", "stall"] {
        let long = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY[$1], subject => 'long', body_text => repeat('ten bytes' || chr(10), 700000))";
        stage.sql.execute(long, &[&format!("{name}@example.org")]).await.expect("enqueues");
    }
    stage.until("sent", 2).await;
    let ledger = stage.server.ledger();
    let broken: Vec<_> = ledger.transactions().filter(|one| one.data_began && !one.end_marker_read).collect();
    assert!(broken.len() >= 2 && broken.iter().all(|one| !one.took), "{} broke off", broken.len());
    assert_eq!(ledger.totals().end_markers, 2);
    Verdict::of(&stage.sql, &ledger).await.assert_each_once(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc16_a_relay_that_dies_or_panics_behind_the_body_leaves_a_mail_without_an_end() {
    for action in ["kill", "panic"] {
        let stage = Stage::set().await;
        // Too long to share its write with the marker.
        let long = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['r1@example.org'], subject => 'long', body_text => repeat('ten bytes' || chr(10), 3000))";
        stage.sql.execute(long, &[]).await.expect("enqueues");
        let mut relay = with_fault(&stage.settings(), &format!("body_written:{action}"));
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.transactions().any(|one| one.body_bytes > 0)).await;
        // A panic takes the process down or costs the attempt only: whatever it is, no dot is written on its way.
        if action == "kill" {
            relay.wait_exit(Duration::from_secs(30)).await;
        }
        stage
            .server
            .wait_until_within(PATIENCE, |ledger| ledger.connections().iter().any(|one| one.ended.is_some()))
            .await;
        let ledger = stage.server.ledger();
        let first = ledger.transactions().next().expect("there was one");
        assert!(first.data_began && !first.end_marker_read && !first.took, "{action}: {ledger}");
        Verdict::of(&stage.sql, &ledger).await.assert_clean(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc17_no_layer_below_sends_again_by_itself_and_there_is_no_transport_that_would() {
    let script = Script::rules([
        Rule::at(TOOK, Fault::Reset).recipient("r1@example.org"),
        Rule::at(TOOK, Fault::Eof).recipient("r2@example.org"),
        Rule::at(Phase::EndMarker { took: false }, Fault::Reset).recipient("r3@example.org"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    for url in ["https://api.example.com/send", "http://127.0.0.1/send"] {
        let (code, output) = stage.settings().set("routes.default.url", url).command(["check"]).await;
        assert!(code == 78 && output.contains("routes.default.url"), "{code}: {output}");
    }
    let _relay = stage.settings().run().await;
    stage.enqueue(10).await;
    stage.until("in_doubt", 3).await;
    stage.until("sent", 7).await;
    stage.enqueue(10).await;
    stage.until("sent", 7 + 7).await;
    stage.until("in_doubt", 3 + 3).await;
    for n in 1..=3 {
        // Once from each round: a reset is no reason to send the same again.
        assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(&format!("r{n}@example.org"))), 2);
    }
    let attempts = stage.count("SELECT count(*) FROM outbox.attempt").await;
    let commands = stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands);
    assert_eq!(i64::try_from(commands).expect("few"), attempts, "every MAIL is an attempt in the ledger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc20_a_row_that_others_lock_and_change_while_it_is_sent_is_recorded_when_they_let_go_and_stops_no_other() {
    let stage = Stage::set().await;
    let relay = stage.settings().run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(12).await;
    hold.wait_for(12).await;
    let mut sessions = Vec::new();
    for (n, work) in [(1, "SELECT result FROM outbox.cancel(q.message_id, 'too late')"), (2, "SELECT 1")] {
        let session = stage.cluster.client("postgres").await.expect("a client");
        let lock = format!(
            "BEGIN; SELECT FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id WHERE m.recipients = ARRAY['r{n}@example.org'] FOR UPDATE OF q;
             SELECT ({work}) FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id WHERE m.recipients = ARRAY['r{n}@example.org'];
             UPDATE outbox.queue q SET note = 'touched' FROM outbox.message m WHERE m.id = q.message_id AND m.recipients = ARRAY['r{n}@example.org']"
        );
        session.batch_execute(&lock).await.expect("locks");
        sessions.push(session);
    }
    hold.release();
    // Ten are recorded; two were taken, too, and wait for their rows.
    stage.until("sent", 10).await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 12);
    assert_eq!(stage.states().await.get("sending"), Some(&2));
    sessions[0].batch_execute("COMMIT").await.expect("commits");
    stage.until("sent", 11).await;
    // An error of somebody else takes only their own work back.
    sessions[1].batch_execute("SELECT 1 / 0").await.expect_err("divides by zero");
    sessions[1].batch_execute("ROLLBACK").await.expect("rolls back");
    stage.until("sent", 12).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(12);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc21_a_batch_of_fifty_with_a_bad_one_in_the_middle_is_forty_nine_single_copies() {
    let custom = |bytes: &[u8]| Fault::Custom(bytes.to_vec());
    for (fault, state) in [
        (custom(b"554 5.7.1 no\r\n"), "failed"),
        (custom(b"554 \x00 \xff\xfe not UTF-8 and not printable\r\n"), ""),
        (Fault::Eof, "in_doubt"),
    ] {
        let rule = Rule::at(Phase::EndMarker { took: false }, fault.clone()).recipient("r25@example.org");
        let stage = Stage::with(SmtpServer::builder().script(Script::rules([rule])).start()).await;
        let settings = stage.settings().set("relay.max_in_flight", 50).set("routes.default.max_connections", 50);
        let hold = stage.server.hold_final_reply();
        let _relay = settings.run().await;
        stage.enqueue(50).await;
        // All fifty replies at once: their outcomes share a commit.
        hold.wait_for(50).await;
        hold.release();
        stage.until_settled().await;
        let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
        println!("{fault:?}: {verdict}, {:?}", stage.state_of("r25@example.org").await);
        verdict.assert_clean(50);
        assert_eq!((verdict.count("sent"), verdict.accepted, verdict.twice.len()), (49, 49, 0), "{verdict}");
        assert!(state.is_empty() || verdict.count(state) == 1, "{verdict}");
        assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 50, "none was tried twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc23_a_wake_up_is_only_a_hint_there_may_be_none_or_a_thousand() {
    let stage = Stage::set().await;
    let _relays = [
        stage.settings().set("relay.wake_up", false).run().await,
        stage.settings().set("relay.wake_up", false).set("relay.name", "other").run().await,
    ];
    // None: what is committed is found without being told of.
    stage.enqueue(50).await;
    stage.until("sent", 50).await;
    // A thousand, of every name somebody might think of, with every id, while work is going on.
    stage.enqueue(300).await;
    for _ in 0..4 {
        stage
            .sql
            .batch_execute("SELECT pg_notify(c, message_id::text) FROM outbox.queue, unnest(ARRAY['outbox', 'hapax', 'outbox_queue', 'enqueue']) c")
            .await
            .expect("notifies");
    }
    stage.until("sent", 350).await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hapax %' AND query LIKE '%outbox.listen *%'";
    assert_eq!(stage.count(listening).await, 0, "nobody listens: the queue itself is asked");
    // To one that listens, a thousand more while it sleeps and while it works: it looks, and finds what there is.
    let woken = stage.settings().set("relay.name", "woken").run().await;
    eventually(PATIENCE, async || {
        let asleep = stage.count("SELECT count(*) FROM outbox.sleeper").await;
        (asleep == 1).then_some(()).ok_or_else(|| woken.report())
    })
    .await;
    for round in 1..=4 {
        stage
            .sql
            .batch_execute("SELECT pg_notify('hapax', n::text) FROM generate_series(1, 300) n")
            .await
            .expect("notifies");
        stage.enqueue(25).await;
        stage
            .sql
            .batch_execute("SELECT pg_notify('hapax', n::text) FROM generate_series(1, 300) n")
            .await
            .expect("notifies");
        stage.until("sent", 350 + 25 * round).await;
    }
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 450);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(450);
}

/// Peers of the process's TCP sockets, and its UDP sockets and listeners, by port.
fn sockets(relay: &HapaxProcess) -> (BTreeSet<u16>, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", relay.id())).expect("it lives");
    let links = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let (mut peers, mut others) = (BTreeSet::new(), 0);
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", relay.id())).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !inodes.contains(fields[9]) {
                continue;
            }
            let port = u16::from_str_radix(fields[2].rsplit(':').next().unwrap_or_default(), 16).expect("a port");
            if table.starts_with("tcp") && fields[3] != "0A" {
                peers.insert(port);
            } else {
                others += 1;
            }
        }
    }
    (peers, others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc28_relays_agree_through_postgres_alone_and_speak_to_nobody_else() {
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(20)).start()).await;
    let relays = [stage.settings().run().await, stage.settings().set("relay.name", "other").run().await];
    stage.enqueue(600).await;
    for mark in [50, 200, 400] {
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        for relay in &relays {
            let (peers, others) = sockets(relay);
            assert!(peers.is_subset(&[stage.cluster.port(), stage.server.port()].into()), "{peers:?}");
            assert!(peers.contains(&stage.cluster.port()) && others == 0, "{peers:?}, {others} listeners or UDP");
        }
    }
    stage.until("sent", 600).await;
    assert_eq!(stage.server.with_ledger(hapax_testkit::Ledger::count_mail_commands), 600);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc50_a_relay_that_slept_between_intent_and_marker_until_its_doubt_was_resolved_transmits_nothing() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.transmit_deadline", "1s").set("relay.dead_after", "1s");
    for (verdict, state) in [("failed", "failed"), ("sent", "sent"), ("resend", "sent")] {
        let recipient = format!("{verdict}@example.org");
        let sleeper = with_fault(&settings, "intended:stop");
        stage.enqueue_one(&recipient, "").await;
        until_stopped(&sleeper).await;
        assert_eq!(stage.state_of(&recipient).await.0, "sending", "behind its intent, before its marker");
        let awake = settings.clone().set("relay.name", "awake").run().await;
        stage.until_state(&recipient, "in_doubt").await;
        let sql = "SELECT i.token::text FROM outbox.in_doubt i JOIN outbox.deliveries d USING (message_id, recipient_no) WHERE d.recipient = $1";
        let token = stage.text(sql, &[&recipient]).await.expect("a token");
        let command = ["resolve", &token, verdict, "--reason", "it is dead", "--force"];
        let (code, output) = stage.settings_of("operator").command(command).await;
        assert_eq!(code, 0, "{output}");
        stage.until_state(&recipient, state).await;
        let before = stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(&recipient));
        sleeper.sigcont();
        // It has woken up: its attempt ends, in the ledger, as certainly not sent.
        eventually(PATIENCE, async || {
            let sql = "SELECT a.outcome FROM outbox.attempt a WHERE a.token = $1::text::uuid";
            let outcome = stage.text(sql, &[&token]).await;
            (outcome.as_deref() == Some("not_sent")).then_some(()).ok_or(outcome)
        })
        .await;
        let ledger = stage.server.ledger();
        let copies =
            ledger.transactions().filter(|one| one.end_marker_read && one.recipients.contains(&recipient)).count();
        println!("{verdict}: {copies} end markers, {:?}", stage.state_of(&recipient).await);
        assert_eq!(copies, usize::from(verdict == "resend"), "{verdict}");
        assert_eq!(ledger.count_rcpt_commands(&recipient), before, "nothing more was said of it");
        drop((sleeper, awake));
    }
}
