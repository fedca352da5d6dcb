//! The corpus at a server that refuses every delivery once, behind its end marker: the second attempt, by another relay
//! process (whose hash seeds, clock and memory are others), carries the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hapax_testkit::{Action, Fault, Phase, Script, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

use super::corpus::corpus;
use super::theatre::{enqueue_all, with_templates};

/// Refuses each message for each recipient once.
pub(crate) fn once() -> Script {
    let seen = Mutex::new(BTreeSet::new());
    let refuse = move |context: &hapax_testkit::Context| {
        if !matches!(context.phase, Phase::EndMarker { .. }) {
            return Action::Proceed;
        }
        let key = (context.message_id.clone(), context.recipient.clone());
        match seen.lock().expect("nobody panics with it").insert(key) {
            true => Action::Fault(Fault::Custom(b"451 4.3.0 not yet\r\n".to_vec())),
            false => Action::Proceed,
        }
    };
    Script::from_fn(refuse).body_percents([])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_is_the_same_at_the_second_attempt_by_another_process() {
    let stage = Stage::with(SmtpServer::builder().script(once()).start()).await;
    // The second attempt is due when the test says so.
    let (_templates, settings) = with_templates(stage.settings().set("retry.first", "1h"));
    let enqueued = enqueue_all(&stage, corpus()).await;
    let expected: usize = enqueued.iter().map(|(_, case)| case.readers.len()).sum();
    let mut first = settings.run().await;
    eventually(PATIENCE, async || {
        let sql = "SELECT count(*) FROM outbox.attempt WHERE outcome <> 'accepted'";
        let refused = stage.count(sql).await;
        (refused == i64::try_from(expected).expect("few")).then_some(()).ok_or(refused)
    })
    .await;
    first.sigterm();
    assert!(first.wait_exit(PATIENCE).await.success(), "{}", first.report());
    stage.sql.execute("UPDATE outbox.queue SET due_at = now()", &[]).await.expect("updates");
    let _second = settings.run().await;
    stage.until("sent", i64::try_from(expected).expect("few")).await;

    // The bytes, and whether they were taken.
    type Attempts = Vec<(Arc<Vec<u8>>, bool)>;
    let mut sent: BTreeMap<(String, String), Attempts> = BTreeMap::new();
    let ledger = stage.server.ledger();
    for transaction in ledger.transactions().filter(|transaction| transaction.end_marker_read) {
        let message_id = transaction.message_id.clone().expect("every message has one");
        let message_id = message_id.trim_matches(['<', '>']).to_owned();
        for recipient in &transaction.recipients {
            let both = sent.entry((message_id.clone(), recipient.clone())).or_default();
            both.push((transaction.body.clone(), transaction.took));
        }
    }
    assert_eq!(sent.len(), expected, "so many deliveries");
    let mut bodies: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (key, attempts) in &sent {
        let [(refused, false), (taken, true)] = &attempts[..] else {
            panic!("{key:?}: {:?}", attempts.iter().map(|attempt| attempt.1).collect::<Vec<_>>());
        };
        assert!(refused == taken, "{key:?}: {}", first_difference(refused, taken));
        // And the same for everybody who gets the message.
        let body = *bodies.entry(&key.0).or_insert(taken);
        assert!(body == &taken[..], "{key:?}: {}", first_difference(body, taken));
    }
    for (message_id, case) in &enqueued {
        assert!(bodies.contains_key(message_id.as_str()), "{}: it kept its Message-ID", case.name);
    }
    assert_eq!(ledger.violations().next(), None);
    println!("{} messages, {expected} deliveries, twice each, byte for byte", bodies.len());
}

/// Both texts around the first byte that differs.
fn first_difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
    let around =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(60)..bytes.len().min(at + 60)]).into_owned();
    format!("at {at}: {:?}, {:?}", around(one), around(other))
}
