//! A real mail server: a thousand notifications of every form through a real Postfix, then the same through its doors
//! that demand TLS and a password. What is committed arrives once for each reader, as it was meant; what is rolled back
//! does not. The oracle is what lies in the Maildirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hapax_testkit::eventually;
use hapax_tests::letters::{PEOPLE, TEMPLATES};
use hapax_tests::mailbox::{self, Mail};
use hapax_tests::postfix::{PASSWORD, Postfix, USER};
use hapax_tests::producer::{Produced, produce};
use hapax_tests::stage::{DOMAIN, PATIENCE, Settings, Stage};

/// A Postfix, or none where it cannot run; says why on stderr.
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

fn seed() -> u64 {
    let seed = std::env::var("HAPAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}");
    seed
}

fn write_templates(directory: &Path) {
    for (path, text) in TEMPLATES {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
}

/// Relays while the application enqueues, waits until everything is delivered, and compares.
async fn everything_arrives_once(postfix: &Postfix, stage: &Stage, settings: Settings, count: usize) -> Vec<Vec<u8>> {
    let templates = tempfile::tempdir().expect("a directory");
    write_templates(templates.path());
    let settings = settings.set("templates.directory", templates.path().display());
    let started = Instant::now();
    let mut relay = settings.run().await;
    let produced = produce(stage, count, seed()).await;
    let expected: usize = produced.committed.iter().map(|(_, letter)| letter.readers.len()).sum();
    let readers = i64::try_from(expected).expect("few");
    stage.until("sent", readers).await;
    let relayed = started.elapsed();
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
    // Postfix has taken them all; now it delivers.
    let boxes = || (0..PEOPLE.len()).map(|number| mailbox::count(&postfix.maildir(number))).sum::<usize>();
    eventually(PATIENCE, async || (boxes() >= expected).then_some(()).ok_or_else(|| (boxes(), expected))).await;
    let mails = compare(postfix, &produced);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    println!(
        "{} notifications ({} transactions, {} rolled back with {} notifications), {expected} deliveries, relayed in {relayed:.1?}",
        produced.committed.len(),
        produced.commits,
        produced.rollbacks,
        produced.rolled_back.len(),
    );
    mails
}

/// Each committed notification once in the Maildir of each of its readers, as it was meant, and nothing else.
fn compare(postfix: &Postfix, produced: &Produced) -> Vec<Vec<u8>> {
    let mut expected: BTreeMap<(String, String), Mail> = BTreeMap::new();
    for (id, letter) in &produced.committed {
        let domain = letter.mail.from.first().and_then(|from| Some(from.split_once('@')?.1)).unwrap_or(DOMAIN);
        let own = letter.mail.message_id.is_empty();
        let message_id = if own { format!("{id}@{domain}") } else { letter.mail.message_id.clone() };
        for reader in &letter.readers {
            let mail = Mail { message_id: message_id.clone(), ..letter.mail.clone() };
            assert!(expected.insert((message_id.clone(), reader.clone()), mail).is_none(), "ids are unique");
        }
    }
    let (mut wrong, mut all) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (number, reader) in PEOPLE.iter().enumerate() {
        for bytes in mailbox::read(&postfix.maildir(number)) {
            let mail = mailbox::parse(&bytes);
            let key = (mail.message_id.clone(), (*reader).to_owned());
            *seen.entry(key.clone()).or_default() += 1;
            match expected.get(&key) {
                None => wrong.push(format!("{key:?} was never committed for this reader: {:?}", mail.subject)),
                Some(meant) if *meant != mail => {
                    wrong.push(format!("{key:?} is not as meant:\n  {meant:?}\n  {mail:?}"))
                }
                Some(_) => {}
            }
            for name in ["Bcc", "Resent-Bcc"] {
                if !mailbox::headers(&bytes, name).is_empty() {
                    wrong.push(format!("{key:?} has {name}"));
                }
            }
            for (name, times) in [("Message-ID", 1), ("Date", 1), ("From", 1), ("Subject", 1), ("Auto-Submitted", 1)] {
                if mailbox::headers(&bytes, name).len() != times {
                    wrong.push(format!("{key:?} has not {times} {name}"));
                }
            }
            all.push(bytes);
        }
    }
    wrong.extend(expected.keys().filter(|key| !seen.contains_key(*key)).map(|key| format!("{key:?} is missing")));
    wrong.extend(seen.iter().filter(|(_, times)| **times > 1).map(|(key, times)| format!("{key:?} {times} times")));
    for id in &produced.rolled_back {
        if seen.keys().any(|(message_id, _)| message_id.starts_with(&id.to_string())) {
            wrong.push(format!("{id} was rolled back"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_notifications_of_every_form_arrive_once_and_intact_through_a_real_postfix() {
    let Some(postfix) = postfix().await else { return };
    let stage = Stage::set().await;
    let settings =
        stage.settings().set("routes.default.url", format!("smtp://127.0.0.1:{}?starttls=none", postfix.smtp()));
    let mails = everything_arrives_once(&postfix, &stage, settings, 1_000).await;
    assert!(mails.len() > 1_000);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome <> 'accepted'").await, 0);
}

/// The mails came over TLS, from somebody who knew the password.
fn assert_authenticated(mails: &[Vec<u8>]) {
    for mail in mails {
        let received = mailbox::headers(mail, "Received").join(" ");
        assert!(
            received.contains("using TLSv1") && received.contains(&format!("(Authenticated sender: {USER})")),
            "{received}"
        );
    }
}

fn with_password(settings: Settings, postfix: &Postfix, directory: &Path) -> Settings {
    let file = directory.join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("it can be written");
    settings
        .set("routes.default.password_file", file.display())
        .set("routes.default.ca_file", postfix.ca_file().display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_through_a_postfix_that_demands_starttls_and_a_password() {
    let Some(postfix) = postfix().await else { return };
    let (stage, directory) = (Stage::set().await, tempfile::tempdir().expect("a directory"));
    let url = format!("smtp://{}@127.0.0.1:{}?starttls=required", USER.replace('@', "%40"), postfix.submission());
    let settings = with_password(stage.settings().set("routes.default.url", url), &postfix, directory.path());
    assert_authenticated(&everything_arrives_once(&postfix, &stage, settings, 1_000).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_through_a_postfix_that_demands_tls_from_the_first_byte_and_a_password() {
    let Some(postfix) = postfix().await else { return };
    let (stage, directory) = (Stage::set().await, tempfile::tempdir().expect("a directory"));
    let url = format!("smtps://{}@localhost:{}", USER.replace('@', "%40"), postfix.smtps());
    let settings = with_password(stage.settings().set("routes.default.url", url), &postfix, directory.path());
    assert_authenticated(&everything_arrives_once(&postfix, &stage, settings, 300).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postfix_demands_is_missed_by_nobody_silently() {
    let Some(postfix) = postfix().await else { return };
    let (stage, directory) = (Stage::set().await, tempfile::tempdir().expect("a directory"));
    let url = |user: &str, options: &str| format!("smtp://{user}127.0.0.1:{}?{options}", postfix.submission());
    let ours = format!("{}@", USER.replace('@', "%40"));
    let wrong_password = directory.path().join("wrong");
    fs::write(&wrong_password, "guess").expect("it can be written");
    let good = with_password(
        stage.settings().set("routes.default.url", url(&ours, "starttls=required")),
        &postfix,
        directory.path(),
    );
    let cases = [
        (
            "without TLS",
            stage.settings().set("routes.default.url", url("", "starttls=none")),
            "auth",
            "Must issue a STARTTLS",
        ),
        (
            "an unknown authority",
            good.clone().set("routes.default.ca_file", strange_authority(directory.path())),
            "tls",
            "certificate",
        ),
        ("a wrong password", good.clone().set("routes.default.password_file", wrong_password.display()), "auth", "535"),
    ];
    stage.enqueue_one("ada@example.org", "").await;
    for (case, settings, phase, words) in cases {
        let mut relay = settings.run().await;
        let attempt = eventually(PATIENCE, async || {
            let sql = "SELECT phase, outcome, concat_ws(' ', code, enhanced, reply, cause, detail) FROM outbox.attempt ORDER BY finished_at DESC LIMIT 1";
            let row = stage.sql.query_opt(sql, &[]).await.expect("attempts can be read")?;
            let attempt: (String, String, String) = (row.get(0), row.get(1), row.get(2));
            (attempt.0 == phase).then_some(attempt)
        })
        .await;
        assert!(attempt.2.contains(words), "{case}: {attempt:?}");
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{case}");
        println!("{case}: {attempt:?}, {:?}", stage.state_of("ada@example.org").await);
        if stage.state_of("ada@example.org").await.0 == "failed" {
            stage
                .sql
                .execute("SELECT outbox.retry(message_id, reason => 'next case') FROM outbox.deliveries", &[])
                .await
                .expect("retries");
        } else {
            stage.sql.execute("UPDATE outbox.queue SET due_at = now()", &[]).await.expect("updates");
        }
    }
    assert_eq!(mailbox::count(&postfix.maildir(0)), 0);
    let _relay = good.run().await;
    stage.until_state("ada@example.org", "sent").await;
}

fn strange_authority(directory: &Path) -> String {
    let path = directory.join("strange.pem");
    let server = hapax_testkit::SmtpServer::start();
    fs::write(&path, server.ca_pem()).expect("it can be written");
    path.display().to_string()
}
