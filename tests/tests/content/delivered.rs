//! The corpus through the real relay and a real Postfix, read back by two readers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use hapax_tests::mailbox;
use hapax_tests::stage::Stage;
use serde_json::Value;

use super::corpus::corpus;
use super::readers::{self, Names, differences};
use super::theatre::{delivered, enqueue_all, postfix, through, with_templates};

/// Every copy: whose Message-ID, to whom, in which file.
fn copies(files: &[PathBuf]) -> BTreeMap<(String, String), Vec<usize>> {
    let mut copies: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        let bytes = fs::read(file).expect("a mail can be read");
        let one = |name: &str| mailbox::headers(&bytes, name).first().map(|value| value.trim().to_owned());
        let message_id = one("Message-ID").unwrap_or_default().trim_matches(['<', '>']).to_owned();
        let reader = one("X-Original-To").or_else(|| one("Delivered-To")).unwrap_or_default();
        copies.entry((message_id, reader)).or_default().push(number);
    }
    copies
}

/// Each of Date, From, Message-ID once, no Bcc; what else there is twice.
fn fields_are_sound(seen: &Value) -> Vec<String> {
    let names: Vec<String> = seen["fields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_lowercase()))
        .collect();
    let count = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    let mut wrong = Vec::new();
    for (name, least, most) in [
        ("date", 1, 1),
        ("from", 1, 1),
        ("message-id", 1, 1),
        ("to", 0, 1),
        ("cc", 0, 1),
        ("subject", 0, 1),
        ("mime-version", 0, 1),
        ("content-type", 0, 1),
        ("bcc", 0, 0),
        ("resent-bcc", 0, 0),
    ] {
        if !(least..=most).contains(&count(name)) {
            wrong.push(format!("{name} {} times", count(name)));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_corpus_comes_through_a_real_postfix_and_two_readers_see_what_was_meant() {
    let Some(postfix) = postfix().await else { return };
    let stage = Stage::set().await;
    let (_templates, settings) = with_templates(through(stage.settings(), &postfix));
    let started = Instant::now();
    let cases = corpus();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "each has a name of its own");
    let enqueued = enqueue_all(&stage, cases).await;
    let expected: usize = enqueued.iter().map(|(_, case)| case.readers.len()).sum();
    let _relay = settings.run().await;
    stage.until_settled().await;
    let sql = "SELECT string_agg(coalesce(reason, state), E'\\n') FROM outbox.deliveries WHERE state <> 'sent'";
    assert_eq!(stage.text(sql, &[]).await, None, "all are sent");
    let files = delivered(&postfix, expected).await;
    let arrived = started.elapsed();

    let by_python = readers::python(&files);
    let by_mail_parser: Vec<Value> =
        files.iter().map(|file| readers::mail_parser(&fs::read(file).expect("a mail can be read"))).collect();
    let mut copies = copies(&files);
    let mut wrong = Vec::new();
    for (message_id, case) in &enqueued {
        for reader in &case.readers {
            let numbers = copies.remove(&(message_id.clone(), reader.clone())).unwrap_or_default();
            if numbers.len() != 1 {
                wrong.push(format!("{} for {reader}: {} copies", case.name, numbers.len()));
            }
            for number in numbers {
                for (who, names, seen) in [
                    ("Python", Names::ButForSpaces, &by_python[number]),
                    ("mail-parser", Names::Exact, &by_mail_parser[number]),
                ] {
                    let mut differences = differences(&case.seen, seen, names);
                    differences.extend(fields_are_sound(seen));
                    wrong.extend(differences.iter().map(|difference| format!("{} by {who}: {difference}", case.name)));
                }
            }
        }
    }
    wrong.extend(copies.keys().map(|copy| format!("{copy:?} was not meant to be")));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!(
        "{} messages, {expected} copies: delivered in {arrived:.1?}, read by both in {:.1?}",
        enqueued.len(),
        started.elapsed() - arrived
    );
}
