//! What the application and the operator may ask of one notification: to be cancelled, to expire, to wait, to keep its
//! order, to be sent again when in doubt; and what becomes of one that kills its relay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hapax_testkit::{Action, Fault, Phase, Rule, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

const TOOK: Phase = Phase::EndMarker { took: true };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc45_resend_sends_one_more_copy_and_no_third_however_often_the_server_keeps_silent() {
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(TOOK, Fault::Stall)).start()).await;
    let _relay = stage.settings().set("relay.final_reply_timeout", "1s").run().await;
    stage.enqueue_one("code@example.org", ", on_doubt => 'resend'").await;
    stage.enqueue_one("hold@example.org", "").await;
    stage.enqueue_one("assume@example.org", ", on_doubt => 'assume_sent'").await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.count_rcpt_commands("code@example.org") == 2).await;
    eventually(PATIENCE, async || stage.count("SELECT count(*) FROM outbox.in_doubt WHERE resends = 1").await == 1)
        .await;
    stage.until_state("assume@example.org", "sent").await;
    // Several rounds of the reaper, and a new relay: max_resends is remembered in the row.
    let _other = stage.settings().set("relay.final_reply_timeout", "1s").run().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(3);
    println!("{verdict}");
    assert_eq!((verdict.accepted, verdict.count("in_doubt"), verdict.count("sent")), (4, 2, 1), "{verdict}");
    let evidence = stage.text("SELECT evidence FROM outbox.done", &[]).await;
    assert_eq!(evidence.as_deref(), Some("policy"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resend_waits_out_the_grace_of_a_relay_that_vanished_for_it_might_wake_up() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    // The shortest grace there is: 1 s + 100 ms + 1 s, and the fixed margin of 30 s.
    let settings = stage
        .settings()
        .set("relay.transmit_deadline", "1s")
        .set("relay.body_timeout", "100ms")
        .set("relay.final_reply_timeout", "1s");
    let relay = settings.clone().set("relay.final_reply_timeout", "30s").run().await;
    stage.enqueue_one("code@example.org", ", on_doubt => 'resend'").await;
    hold.wait_for(1).await;
    relay.sigkill();
    hold.release();
    stage.sql.batch_execute("UPDATE outbox.relay SET doubt_grace = interval '32.1 s'").await.expect("updates");
    let _second = settings.run().await;
    stage.until_state("code@example.org", "in_doubt").await;
    let marked = Instant::now();
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.count_rcpt_commands("code@example.org") == 2).await;
    println!("sent again {:.1?} after the mark", marked.elapsed());
    assert!(marked.elapsed() >= Duration::from_secs(31), "{:?}", marked.elapsed());
    stage.until_state("code@example.org", "sent").await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(1);
    assert_eq!(verdict.accepted, 2, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_before_it_is_sending_is_never_sent_and_later_it_is_too_late() {
    let stage = Stage::set().await;
    let waiting = stage.enqueue_one("waiting@example.org", ", not_before => now() + interval '2 s'").await;
    let hold = stage.server.hold_final_reply();
    let mut relay = stage.settings().run().await;
    let flying = stage.enqueue_one("flying@example.org", "").await;
    hold.wait_for(1).await;
    let cancel = "SELECT result FROM outbox.cancel($1, 'the customer asked')";
    assert_eq!(stage.text(cancel, &[&waiting]).await.as_deref(), Some("cancelled"));
    assert_eq!(stage.text(cancel, &[&flying]).await.as_deref(), Some("too late: in flight"));
    hold.release();
    stage.until_state("flying@example.org", "sent").await;
    assert_eq!(stage.text(cancel, &[&flying]).await.as_deref(), Some("too late: sent"));
    // Beyond the time it was waiting for.
    stage.enqueue_one("marker@example.org", ", not_before => now() + interval '3 s'").await;
    stage.until_state("marker@example.org", "sent").await;
    relay.sigterm();
    relay.wait_exit(Duration::from_secs(30)).await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("waiting@example.org")), 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_races_with_the_relay_and_every_answer_is_true() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(5)).start();
    let stage = Stage::with(server).await;
    stage.enqueue(400).await;
    let _relay = stage.settings().run().await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 20).await;
    // From the back of the queue to its front, while the relay comes the other way.
    let rows =
        stage.sql.query("SELECT message_id FROM outbox.deliveries ORDER BY message_id DESC", &[]).await.expect("ids");
    let (mut cancelled, mut late) = (0, 0);
    for row in rows {
        let id: uuid::Uuid = row.get(0);
        let result = stage.text("SELECT result FROM outbox.cancel($1, 'race')", &[&id]).await.expect("an answer");
        if result == "cancelled" { cancelled += 1 } else { late += 1 }
    }
    stage.until_settled().await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("{cancelled} cancelled, {late} too late: {verdict}");
    verdict.assert_clean(400);
    assert_eq!(
        (verdict.count("cancelled"), verdict.count("sent"), verdict.accepted),
        (cancelled, late, late),
        "{verdict}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_while_the_server_refuses_it_is_not_sent_any_more() {
    let script = Script::rules([Rule::at(Phase::Rcpt, Fault::Reply4xx).recipient("code@example.org")]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    stage.enqueue_one("code@example.org", ", expires_at => now() + interval '2 s'").await;
    stage.enqueue_one("kind@example.org", ", not_before => now() + interval '1500 ms'").await;
    let _relay = stage.settings().set("kinds.note.expires_after", "1h").run().await;
    stage.until_state("code@example.org", "expired").await;
    stage.server.script(Script::good());
    stage.until_state("kind@example.org", "sent").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(2);
    assert_eq!(verdict.accepted, 1, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc29_what_waits_for_its_time_is_not_sent_before() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    for tenths in [0, 7, 14, 21] {
        stage
            .enqueue_one(
                &format!("t{tenths}@example.org"),
                &format!(", not_before => now() + interval '{tenths}00 ms'"),
            )
            .await;
    }
    stage.until("sent", 4).await;
    let early = "SELECT count(*) FROM outbox.attempt a JOIN outbox.message m ON m.id = a.message_id WHERE a.finished_at < m.not_before";
    assert_eq!(stage.count(early).await, 0);
    let late = "SELECT (max(extract(epoch FROM a.finished_at - m.not_before)) * 1000)::bigint FROM outbox.attempt a JOIN outbox.message m ON m.id = a.message_id";
    println!("accepted at most {} ms after their time", stage.count(late).await);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_one_ordering_key_go_out_in_commit_order_also_with_two_relays_and_refusals() {
    // Every fifth RCPT is put off once.
    let script = Script::from_fn(|context| {
        let number: usize =
            context.recipient.as_deref().and_then(|to| to.split(['-', '@']).nth(1)?.parse().ok()).unwrap_or(1);
        let first = context.phase == Phase::Rcpt && context.recipient_seen == 1;
        if first && number.is_multiple_of(5) { Action::Fault(Fault::Reply4xx) } else { Action::Proceed }
    });
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relays = [stage.settings().run().await, stage.settings().set("relay.name", "b").run().await];
    for number in 0..40 {
        for key in ["red", "green", "blue"] {
            stage.enqueue_one(&format!("{key}-{number}@example.org"), &format!(", ordering_key => '{key}'")).await;
        }
    }
    stage.until("sent", 120).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(120);
    let sql = "SELECT split_part(m.recipients[1], '-', 1), split_part(split_part(m.recipients[1], '-', 2), '@', 1)::int
               FROM outbox.attempt a JOIN outbox.message m ON m.id = a.message_id WHERE a.outcome = 'accepted' ORDER BY a.finished_at";
    let mut order: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for row in stage.sql.query(sql, &[]).await.expect("attempts can be read") {
        order.entry(row.get(0)).or_default().push(row.get(1));
    }
    for (key, numbers) in order {
        assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_in_doubt_blocks_its_ordering_key_until_somebody_decides() {
    let script = Script::rules([Rule::at(TOOK, Fault::Eof).recipient("first@example.org")]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = stage.settings().run().await;
    for name in ["first", "second", "third"] {
        stage.enqueue_one(&format!("{name}@example.org"), ", ordering_key => 'account-1'").await;
    }
    stage.until("in_doubt", 1).await;
    stage.enqueue_one("other@example.org", ", ordering_key => 'account-2'").await;
    stage.until_state("other@example.org", "sent").await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands("second@example.org")), 0);
    stage
        .sql
        .execute(
            "SELECT outbox.resolve(message_id, recipient_no, 'sent', 'in its log', token) FROM outbox.in_doubt",
            &[],
        )
        .await
        .expect("resolves");
    stage.until("sent", 4).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc26_rc30_the_same_event_or_the_same_address_twice_is_one_mail() {
    let stage = Stage::set().await;
    let _relay = stage.settings().run().await;
    let first = stage.enqueue_one("ada@example.org", ", dedup_key => 'order-42'").await;
    let again = stage.enqueue_one("ada@example.org", ", dedup_key => 'order-42'").await;
    assert_eq!(first, again);
    stage
        .enqueue_one("bob@example.org", ", cc => ARRAY['Bob <BOB@Example.org>'], bcc => ARRAY['bob@example.org']")
        .await;
    stage.until("sent", 2).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_its_relay_again_and_again_is_tried_alone_then_held_as_poison_and_its_neighbours_are_sent()
{
    // No fault point is needed: the server stalls at DATA, before the intent, and the relay is killed there.
    let script = Script::rules([Rule::at(Phase::Data, Fault::Stall).recipient("poison@example.org")]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let settings = stage.settings().set("relay.lease", "1s");
    stage.enqueue_one("poison@example.org", "").await;
    for death in 1..=6 {
        let relay = settings.run().await;
        stage.enqueue_one(&format!("neighbour{death}@example.org"), "").await;
        stage
            .server
            .wait_until_within(PATIENCE, |ledger| ledger.count_rcpt_commands("poison@example.org") >= death)
            .await;
        relay.sigkill();
    }
    let relay = settings.run().await;
    let reason = stage.until_state("poison@example.org", "held").await;
    println!("{reason}");
    assert!(reason.starts_with("poison: the relay died 6 times"), "{reason}");
    stage.until_settled().await;
    assert!(relay.status().is_none());
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(7);
    println!("{verdict}");
    assert_eq!(verdict.count("held"), 1, "{verdict}");
    // The neighbours were in nobody's way but the server's: sent, or in doubt where the kill met them behind their marker.
    assert_eq!(verdict.count("sent") + verdict.count("in_doubt"), 6, "{verdict}");
    // Released by a person, with the cause gone, it goes out.
    stage.server.script(Script::good());
    stage
        .sql
        .execute(
            "SELECT outbox.release(message_id, 'server repaired') FROM outbox.deliveries WHERE state = 'held'",
            &[],
        )
        .await
        .expect("releases");
    stage.until_state("poison@example.org", "sent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_overrides_its_kind_what_has_expired_is_not_resent_and_filters_decide_the_rest() {
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(TOOK, Fault::Stall)).start()).await;
    let settings = stage.settings().set("relay.final_reply_timeout", "3s").set("kinds.note.on_doubt", "assume_sent");
    let _relay = settings.run().await;
    stage.enqueue_one("kind@example.org", "").await;
    stage.enqueue_one("hold@example.org", ", on_doubt => 'hold'").await;
    stage.enqueue_one("resend@example.org", ", on_doubt => 'resend'").await;
    stage.enqueue_one("late@example.org", ", on_doubt => 'resend', expires_at => now() + interval '2500 ms'").await;
    stage.until_state("kind@example.org", "sent").await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.count_rcpt_commands("resend@example.org") == 2).await;
    stage.until_state("late@example.org", "expired").await;
    let open = "SELECT open_doubts FROM outbox.deliveries WHERE recipient = 'late@example.org'";
    let row = stage.sql.query_one(open, &[]).await.expect("a row");
    assert_eq!(row.get::<_, i32>(0), 1, "it may have arrived");
    stage.until("in_doubt", 2).await;
    let operator = stage.settings_of("operator");
    let many = ["resolve", "--kind", "note", "sent", "--reason", "in the log of mx1"];
    let (code, output) = operator.command(many.into_iter().chain(["--dry-run"])).await;
    assert!(code == 0 && output.contains("2 would be decided of 2 in doubt that match"), "{code}: {output}");
    let (code, output) = operator.command(["resolve", "--kind", "other", "sent", "--reason", "x"]).await;
    assert!(code == 0 && output.contains("no doubt has kind other"), "{code}: {output}");
    let (code, output) = operator.command(many).await;
    assert!(code == 0 && output.contains("2 decided of 2 in doubt that match"), "{code}: {output}");
    let (code, output) = operator.command(many).await;
    assert!(code == 0 && output.contains("no doubt has kind note"), "again: {code}: {output}");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(4);
    for (who, copies) in [("kind", 1), ("hold", 1), ("resend", 2), ("late", 1)] {
        let seen = stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(&format!("{who}@example.org")));
        assert_eq!(seen, copies, "{who}");
    }
    let evidence = "SELECT string_agg(DISTINCT evidence, ',' ORDER BY evidence) FROM outbox.done";
    assert_eq!(stage.text(evidence, &[]).await.as_deref(), Some("operator,policy"));
}
