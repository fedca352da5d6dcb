//! Upstreams that de-duplicate by a header: every message carries its key, and a doubt is resolved by sending again with
//! the same key, to the same upstream, inside its window, never otherwise.
//!
//! The oracle is the server's ledger: an upstream that de-duplicates delivers once for each distinct key it has taken.

use std::collections::BTreeMap;
use std::time::Duration;

use hapax_testkit::{Action, Fault, HapaxProcess, Ledger, Phase, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

const HEADER: &str = "Resend-Idempotency-Key";

fn settings(stage: &Stage) -> Settings {
    stage
        .settings()
        .set("routes.default.idempotency_header", HEADER)
        .set("routes.default.idempotency_window", "24h")
        .set("relay.final_reply_timeout", "5s")
}

/// What the server read under each key: whether it took it, and the bytes, once for each end marker.
fn by_key(ledger: &Ledger) -> BTreeMap<String, Vec<(bool, Vec<u8>)>> {
    let mut keys: BTreeMap<String, Vec<(bool, Vec<u8>)>> = BTreeMap::new();
    for transaction in ledger.transactions().filter(|transaction| transaction.end_marker_read) {
        let key = transaction.header(HEADER).expect("every message carries its key");
        keys.entry(key).or_default().push((transaction.took, transaction.body.to_vec()));
    }
    keys
}

/// Asserts that no key was read more than `most` times, always with the same bytes; answers how many mails the upstream
/// has delivered.
fn delivered(ledger: &Ledger, most: usize) -> usize {
    let keys = by_key(ledger);
    for (key, read) in &keys {
        assert!(read.len() <= most, "{key} was read {} times", read.len());
        assert!(read.iter().all(|(_, body)| *body == read[0].1), "{key}: the attempts differ");
    }
    keys.values().filter(|read| read.iter().any(|(took, _)| *took)).count()
}

/// Takes everything, and loses its connection where the answer is due the first `losses` times for each recipient.
fn losing(losses: usize) -> Script {
    Script::from_fn(move |context| {
        let end = matches!(context.phase, Phase::EndMarker { .. });
        if end && context.recipient_seen <= losses { Action::TakeThen(Fault::Eof) } else { Action::Proceed }
    })
    .body_percents([])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_is_resolved_by_sending_again_with_the_same_key_and_every_recipient_gets_one_mail() {
    let stage = Stage::with(SmtpServer::builder().script(losing(1)).start()).await;
    stage.enqueue(20).await;
    let three = ", cc => ARRAY['bob@example.org'], bcc => ARRAY['eve@example.org'], on_doubt => 'hold'";
    let id = stage.enqueue_one("ada@example.org", three).await;
    let _relay = settings(&stage).run().await;
    stage.until("sent", 23).await;
    let (verdict, ledger) = (Verdict::of(&stage.sql, &stage.server.ledger()).await, stage.server.ledger());
    verdict.assert_clean(23);
    assert_eq!((delivered(&ledger, 2), ledger.totals().end_markers), (23, 46), "{verdict}");
    for number in 1..=3 {
        assert!(by_key(&ledger).contains_key(&format!("{id}-{number}")), "the key is the delivery's");
    }
    let settled = "SELECT count(*) FROM outbox.deliveries
                   WHERE evidence = 'idempotent upstream' AND open_doubts = 0 AND resends = 1 AND intents = 2";
    assert_eq!(stage.count(settled).await, 23);
    let audit = format!(
        "SELECT count(*) FROM outbox.audit WHERE action = 'resolve resend' AND before = 'in_doubt' AND after = 'pending'
         AND reason LIKE 'policy: route default de-duplicates by {HEADER} for 86400 s after the first intent%'"
    );
    assert_eq!(stage.count(&audit).await, 23);
    let (code, shown) = stage.settings_of("operator").command(["show", &format!("{id}/1")]).await;
    println!("{shown}");
    assert_eq!(code, 0);
    assert!(shown.contains("sent again with the same key"), "{shown}");
    assert!(shown.contains("Its upstream knows repeats by their key: they made no further copy"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_relays_doubts_are_all_resolved_inside_the_window_and_never_outside_nor_elsewhere() {
    let mut stage = Stage::set().await;
    let elsewhere = SmtpServer::start();
    let hold = stage.server.hold_final_reply();
    let relay = settings(&stage).set("relay.final_reply_timeout", "30s").run().await;
    stage.enqueue(24).await;
    hold.wait_for(16).await;
    relay.sigkill();
    hold.release();
    // The grace of the dead relay is tested elsewhere; here it is short.
    stage.sql.batch_execute("UPDATE outbox.relay SET doubt_grace = interval '1 s'").await.expect("updates");
    let old = "UPDATE outbox.queue SET first_intent_at = now() - interval '23 hours 1 second'
               WHERE (message_id, recipient_no) IN (SELECT message_id, recipient_no FROM outbox.queue WHERE intent IS NOT NULL
                                                    ORDER BY message_id LIMIT 5)";
    assert_eq!(stage.sql.execute(old, &[]).await.expect("ages five"), 5);
    // Same names, another server: nobody's doubts are resolved there.
    let other =
        settings(&stage).set("routes.default.url", format!("smtp://127.0.0.1:{}?starttls=none", elsewhere.port()));
    let mut second = other.run().await;
    stage.until("sent", 8).await;
    eventually(PATIENCE, async || {
        let states = stage.states().await;
        (states.get("in_doubt") == Some(&16)).then_some(()).ok_or(states)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((elsewhere.ledger().totals().end_markers, stage.states().await["in_doubt"]), (8, 16));
    second.sigterm();
    second.wait_exit(PATIENCE).await;
    // The right one again.
    let _third = settings(&stage).run().await;
    stage.until("in_doubt", 5).await;
    stage.until_settled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.reconnect().await;
    let ledger = stage.server.ledger();
    let read = by_key(&ledger);
    println!("{:?}, keys {}, end markers {}", stage.states().await, read.len(), ledger.totals().end_markers);
    assert_eq!((stage.states().await["sent"], stage.states().await["in_doubt"]), (19, 5));
    assert_eq!((read.len(), delivered(&ledger, 2)), (16, 16));
    assert_eq!(read.values().filter(|read| read.len() == 1).count(), 5, "nothing new after the window");
    assert_eq!(elsewhere.ledger().totals().end_markers, 8);
    let left = stage
        .text("SELECT min(open_doubts)::text || max(open_doubts) FROM outbox.deliveries WHERE state = 'in_doubt'", &[])
        .await;
    assert_eq!(left.as_deref(), Some("11"));
    let sent = "SELECT count(*) FROM outbox.deliveries WHERE state = 'sent' AND evidence = 'idempotent upstream'";
    assert_eq!(stage.count(sent).await, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_is_asked_again_after_longer_and_longer_pauses_until_the_window_closes() {
    let stage = Stage::with(SmtpServer::builder().script(losing(usize::MAX)).start()).await;
    // Beyond max_resends, which does not count these.
    let _relay = settings(&stage).set("relay.max_resends", 0).set("retry.jitter", 0).run().await;
    stage.enqueue_one("ada@example.org", ", on_doubt => 'resend'").await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().end_markers >= 5).await;
    stage
        .sql
        .batch_execute("UPDATE outbox.queue SET first_intent_at = now() - interval '23 hours 1 second'")
        .await
        .expect("ages it");
    // One may have passed the gate before: after two equal looks nothing is on its way any more.
    let mut last = 0;
    eventually(PATIENCE, async || {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (before, now) = (last, stage.server.ledger().totals().end_markers);
        last = now;
        if before == now && stage.states().await.contains_key("in_doubt") { Ok(()) } else { Err(now) }
    })
    .await;
    let ledger = stage.server.ledger();
    assert_eq!(delivered(&ledger, last), 1, "one key");
    let pauses = "SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY id))::float8 FROM outbox.audit WHERE action = 'resolve resend' ORDER BY id";
    let rows = stage.sql.query(pauses, &[]).await.expect("the audit");
    let pauses: Vec<f64> = rows.iter().skip(1).map(|row| row.get(0)).collect();
    println!("{last} end markers, pauses {pauses:.2?} s");
    for (tries, pause) in pauses.iter().enumerate() {
        let least = 0.2 * 2_f64.powi(i32::try_from(tries).expect("few"));
        assert!(*pause >= least * 0.95, "{pauses:?}: the {tries}th is shorter than {least}");
    }
    // Then a person decides, as always.
    let resolve = "SELECT outbox.resolve(message_id, recipient_no, 'sent', 'in its log', token) FROM outbox.in_doubt";
    assert_eq!(stage.text(resolve, &[]).await.as_deref(), Some("sent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_repetition_is_settled_as_usual_and_one_that_outlives_its_window_is_in_doubt_again() {
    // In doubt at first; the second time put off, refused for good, or put off until it expires.
    let script = Script::from_fn(|context| {
        let to = context.recipient.as_deref().unwrap_or_default();
        match (context.phase, context.recipient_seen) {
            (Phase::EndMarker { .. }, 1) => Action::TakeThen(Fault::Eof),
            (Phase::EndMarker { .. }, _) if to.starts_with("refused") => Action::Fault(Fault::Reply5xx),
            (Phase::Rcpt, 2..) if !to.starts_with("refused") => Action::Fault(Fault::Reply4xx),
            _ => Action::Proceed,
        }
    })
    .body_percents([]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = settings(&stage).set("retry.cap", "1s").run().await;
    stage.enqueue_one("refused@example.org", "").await;
    stage.enqueue_one("late@example.org", "").await;
    stage.enqueue_one("expires@example.org", ", expires_at => now() + interval '8 s'").await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.count_rcpt_commands("late@example.org") >= 3).await;
    stage
        .sql
        .batch_execute(
            "UPDATE outbox.queue SET first_intent_at = now() - interval '23 hours 1 second'
             WHERE message_id = (SELECT message_id FROM outbox.deliveries WHERE recipient = 'late@example.org')",
        )
        .await
        .expect("ages it");
    let note = stage.until_state("late@example.org", "in_doubt").await;
    assert!(note.starts_with("the window in which its upstream de-duplicates has closed"), "{note}");
    stage.until_state("expires@example.org", "expired").await;
    let reason = stage.until_state("refused@example.org", "failed").await;
    assert!(reason.starts_with("refused at end_marker: 5"), "{reason}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.deliveries WHERE open_doubts = 1").await, 3);
    // It is the same doubt as before, and can be decided.
    let resolve = "SELECT outbox.resolve(message_id, recipient_no, 'sent', 'in its log', token) FROM outbox.in_doubt";
    assert_eq!(stage.text(resolve, &[]).await.as_deref(), Some("sent"));
    let ledger = stage.server.ledger();
    assert_eq!(ledger.totals().end_markers, 4, "{ledger}");
    Verdict::of(&stage.sql, &ledger).await.assert_clean(3);
}

/// Waits until the kernel says that the process is stopped.
async fn stopped(pid: u32) {
    eventually(PATIENCE, async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if status.contains("State:\tT") { Ok(()) } else { Err(status) }
    })
    .await;
}

/// Needs a binary with the feature `fault-points`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_sleeps_through_the_end_of_the_window_before_or_behind_its_intent_transmits_nothing() {
    for point in ["before_intend", "intended"] {
        let stage = Stage::with(SmtpServer::builder().script(losing(1)).start()).await;
        let quiet = settings(&stage).set("relay.dead_after", "60s").set("relay.transmit_deadline", "5m");
        let mut first = stage.settings().set("routes.default.idempotency_header", HEADER);
        first = first.set("routes.default.idempotency_window", "5m");
        stage.enqueue_one("ada@example.org", "").await;
        // Closed for this relay before it can decide: its reaper is slow.
        let mut relay = first
            .set("relay.heartbeat_interval", "20s")
            .set("relay.dead_after", "60s")
            .set("relay.transmit_deadline", "60s")
            .run()
            .await;
        stage.until("in_doubt", 1).await;
        stage
            .sql
            .batch_execute("UPDATE outbox.queue SET first_intent_at = now() - interval '24 hours'")
            .await
            .expect("ages it");
        relay.sigterm();
        relay.wait_exit(PATIENCE).await;
        let relay =
            HapaxProcess::builder().config(quiet.toml()).env("HAPAX_FAULT", format!("{point}:stop")).arg("run").spawn();
        running(&relay).await;
        // Ten seconds are left, and it sleeps longer.
        let left = "UPDATE outbox.queue SET first_intent_at = now() - interval '23 hours' + interval '10 s'";
        stage.sql.batch_execute(left).await.expect("opens the window");
        stopped(relay.id()).await;
        eventually(PATIENCE, async || {
            let closed = "SELECT count(*) FROM outbox.queue WHERE first_intent_at < now() - interval '23 hours'";
            (stage.count(closed).await == 1).then_some(()).ok_or("still open")
        })
        .await;
        relay.sigcont();
        let note = stage.until_state("ada@example.org", "in_doubt").await;
        println!("{point}: {note}");
        assert!(note.starts_with("the window in which its upstream de-duplicates has closed"), "{point}: {note}");
        assert_eq!(stage.server.ledger().totals().end_markers, 1, "{point}");
    }
}
