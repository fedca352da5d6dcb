//! What the content tests share: a Postfix that takes everything for its domains, the stage with templates, and the
//! corpus enqueued.

use std::fs;
use std::path::PathBuf;

use hapax_testkit::eventually;
use hapax_tests::mailbox;
use hapax_tests::postfix::Postfix;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use serde_json::Value;
use uuid::Uuid;

use super::corpus::{Case, DOMAINS, TEMPLATES};

/// A Postfix, or none where it cannot run; says why on stderr.
pub(crate) async fn postfix() -> Option<Postfix> {
    match Postfix::available() {
        Ok(()) => Some(Postfix::start(&DOMAINS).await),
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

/// A directory with the templates of the corpus, and settings that use it.
pub(crate) fn with_templates(settings: Settings) -> (tempfile::TempDir, Settings) {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, text) in TEMPLATES {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("it can be made");
        fs::write(path, text).expect("it can be written");
    }
    let settings = settings.set("templates.directory", directory.path().display());
    (directory, settings)
}

/// To this Postfix.
pub(crate) fn through(settings: Settings, postfix: &Postfix) -> Settings {
    settings.set("routes.default.url", format!("smtp://127.0.0.1:{}?starttls=none", postfix.smtp()))
}

/// Enqueues a document as an application does; what is refused is the database's error.
pub(crate) async fn enqueue(stage: &Stage, document: &Value) -> Result<Uuid, tokio_postgres::Error> {
    let sql = "SELECT id FROM outbox.enqueue_many($1::text::json)";
    let row = stage.sql.query_one(sql, &[&Value::Array(vec![document.clone()]).to_string()]).await?;
    Ok(row.get(0))
}

/// SQLSTATE and words of a refusal.
pub(crate) fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}

/// Enqueues all of them; answers each with the Message-ID that it must get.
pub(crate) async fn enqueue_all(stage: &Stage, cases: Vec<Case>) -> Vec<(String, Case)> {
    let (mut enqueued, mut refused) = (Vec::with_capacity(cases.len()), Vec::new());
    for case in cases {
        match enqueue(stage, &case.document).await {
            Ok(id) => {
                let message_id = case.message_id.clone().unwrap_or_else(|| format!("{id}@{}", case.domain));
                enqueued.push((message_id, case));
            }
            Err(error) => refused.push(format!("{}: {}", case.name, words(&error))),
        }
    }
    assert!(refused.is_empty(), "refused:\n{}", refused.join("\n"));
    enqueued
}

/// Waits until Postfix has delivered so many mails, and nothing more comes; answers their files.
pub(crate) async fn delivered(postfix: &Postfix, count: usize) -> Vec<PathBuf> {
    let directories = || (0..DOMAINS.len()).map(|number| postfix.maildir(number));
    let boxes = || directories().map(|directory| mailbox::count(&directory)).sum::<usize>();
    let there = async || (boxes() >= count && postfix.queued().is_empty()).then_some(()).ok_or_else(&boxes);
    eventually(PATIENCE, there).await;
    let entries = directories().filter_map(|directory| fs::read_dir(directory.join("new")).ok()).flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
