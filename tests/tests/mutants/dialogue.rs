//! What is said to the mail server, and what is believed of its answers.

use std::time::Duration;

use hapax_testkit::{Fault, Phase, Rule, Script, SmtpServer};
use hapax_tests::stage::Stage;

use super::{Kind, breaches, comes_true, play};

const TOOK: Phase = Phase::EndMarker { took: true };
const NOT_TAKEN: Phase = Phase::EndMarker { took: false };

/// The message is taken, and the answer is none.
async fn taken_without_a_good_answer(kind: Kind) -> Vec<String> {
    let once = |fault, recipient: &str| Rule::at(TOOK, fault).recipient(recipient).times(1);
    let script = Script::rules([
        once(Fault::Eof, "r1@example.org"),
        once(Fault::Reply421, "r2@example.org"),
        once(Fault::Reply3xx, "r3@example.org"),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = kind.start(&stage, &stage.settings(), &[]).await;
    stage.enqueue(4).await;
    breaches(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_takes_no_answer_for_a_refusal_is_noticed() {
    play(taken_without_a_good_answer, &["unknown_retried", "reply_421_refuses", "reply_3xx_refuses"]).await;
}

/// A 250 too many comes with the 354; the message is not taken.
async fn a_stray_reply_comes_early(kind: Kind) -> Vec<String> {
    let script = Script::rules([
        Rule::at(Phase::Data, Fault::Stray(b"250 2.0.0 stray\r\n".to_vec())).times(1),
        Rule::at(NOT_TAKEN, Fault::Eof).connection(1),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = kind.start(&stage, &stage.settings(), &[]).await;
    stage.enqueue(1).await;
    breaches(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_believes_stray_replies_is_noticed() {
    play(a_stray_reply_comes_early, &["strays_believed"]).await;
}

/// Content that tempts: lone dots, bare line ends; refused for now at first, so that there are two attempts.
async fn tempting_content(kind: Kind) -> Vec<String> {
    let script = Script::rules([Rule::at(NOT_TAKEN, Fault::Reply4xx).times(2)]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let _relay = kind.start(&stage, &stage.settings(), &[]).await;
    for (recipient, body) in
        [("dots@example.org", "one\\r\\n.\\r\\ntwo\\r\\n"), ("bare@example.org", "one\\n.\\ntwo\\r.\\r")]
    {
        let raw = format!(
            "SELECT outbox.enqueue(kind => 'raw', recipients => ARRAY['{recipient}'], raw_message => convert_to(E'Subject: x\\r\\n\\r\\n{body}', 'UTF8'))"
        );
        stage.sql.query_one(&raw, &[]).await.expect("enqueues");
    }
    let mut breaches = breaches(&stage, kind).await;
    let ledger = stage.server.ledger();
    breaches.extend(ledger.violations().map(|(_, what)| what.to_owned()));
    for recipient in ["dots@example.org", "bare@example.org"] {
        let copies: Vec<_> =
            ledger.transactions().filter(|copy| copy.end_marker_read && copy.recipients == [recipient]).collect();
        if copies.windows(2).any(|pair| pair[0].message_id != pair[1].message_id) {
            breaches.push(format!("{recipient}: copies with different Message-IDs"));
        }
        let whole = copies.iter().all(|copy| {
            copy.body.ends_with(b"one\r\n.\r\ntwo\r\n") || copy.body.ends_with(b"one\r\n.\r\ntwo\r\n.\r\n")
        });
        if copies.is_empty() || !whole {
            breaches.push(format!("{recipient}: cut short"));
        }
    }
    breaches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_is_cut_or_changed_is_noticed() {
    play(tempting_content, &["dots_not_stuffed", "message_id_fresh"]).await;
}

/// The server takes every copy and never says so.
async fn never_an_answer(kind: Kind) -> Vec<String> {
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(TOOK, Fault::Eof)).start()).await;
    let _relay = kind.start(&stage, &stage.settings(), &[]).await;
    stage.enqueue_one("code@example.org", ", on_doubt => 'resend'").await;
    let copies = || stage.server.with_ledger(|ledger| ledger.totals().accepted);
    assert!(comes_true(hapax_tests::stage::PATIENCE, async || copies() >= 2).await, "a second copy is sent");
    // Several rounds of the reaper.
    comes_true(Duration::from_secs(3), async || copies() > 2).await;
    if copies() > 2 { vec![format!("{} copies, 2 are the most", copies())] } else { breaches(&stage, kind).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_resends_for_ever_is_noticed() {
    play(never_an_answer, &["resends_unlimited"]).await;
}
