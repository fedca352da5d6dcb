//! `hapax send-test` against the scripted mail server, whose ledger is the judge.

use std::path::Path;

use hapax_testkit::{Fault, Phase, Script, SmtpServer};

use crate::support::{Ended, run_in};

const ADA: &str = "ada@example.org";

fn directory(server: &SmtpServer, more: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("templates/welcome/subject.txt", "Welcome {{ name }}");
    write("templates/welcome/body.txt", "Hello {{ name }}\n");
    write("templates/welcome/sample.json", "{\"name\": \"Grace\"}");
    write("templates/welcome/sample.long.json", "{\"name\": \"Maximiliane\"}");
    write("payload.json", "{\"name\": \"Typed\"}");
    let text = format!(
        "[templates]\ndirectory = \"templates\"\n[routes.default]\nurl = \"{}\"\nstarttls = \"none\"\nfrom = \"Shop <shop@example.org>\"\n{more}",
        server.url()
    );
    write("hapax.toml", &text);
    directory
}

async fn send(directory: &Path, more: &[&str]) -> Ended {
    run_in(directory, &[&["send-test", "welcome"], more].concat(), &[]).await
}

#[tokio::test]
async fn one_message_is_sent_and_the_servers_words_are_told() {
    let server = SmtpServer::start();
    let directory = directory(&server, "");
    let ended = send(directory.path(), &["--to", ADA]).await;
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    let first: Vec<&str> = ended.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first, ["rendered", "connected", "envelope", "message", "accepted"], "{}", ended.stdout);
    assert!(ended.stdout.contains("accepted   250 "), "{}", ended.stdout);
    assert!(ended.stderr.starts_with("this goes past the outbox: nothing is recorded"), "{}", ended.stderr);
    let ledger = server.ledger();
    let sent: Vec<_> = ledger.messages().collect();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].sender.as_str(), &sent[0].recipients[..]), ("shop@example.org", &[ADA.to_owned()][..]));
    assert_eq!(sent[0].header("Subject").as_deref(), Some("Welcome Grace"));
    assert!(ended.stdout.contains(&sent[0].header("Message-ID").expect("it has one")), "{}", ended.stdout);
}

#[tokio::test]
async fn the_payload_is_that_of_a_sample_or_of_a_file() {
    let server = SmtpServer::start();
    let directory = directory(&server, "");
    for (more, subject) in
        [(["--sample", "long"], "Welcome Maximiliane"), (["--data", "payload.json"], "Welcome Typed")]
    {
        let ended = send(directory.path(), &[&["--to", ADA][..], &more].concat()).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let last = server.ledger().messages().last().and_then(|message| message.header("Subject"));
        assert_eq!(last.as_deref(), Some(subject));
    }
    let missing = send(directory.path(), &["--to", ADA, "--sample", "none"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (64, ""));
    assert!(missing.stderr.contains("error: welcome/sample.none.json: there is no such sample"), "{}", missing.stderr);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_phase() {
    let server = SmtpServer::builder().script(Script::fault(Phase::Rcpt, Fault::Reply5xx)).start();
    let directory = directory(&server, "");
    let ended = send(directory.path(), &["--to", ADA]).await;
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    assert!(ended.stdout.contains("refused    in phase rcpt: 5"), "{}", ended.stdout);
    assert_eq!(server.ledger().totals().accepted, 0);
}

#[tokio::test]
async fn an_unknown_outcome_is_said_plainly_and_never_repeated() {
    let server = SmtpServer::builder().script(Script::fault(Phase::EndMarker { took: true }, Fault::Eof)).start();
    let directory = directory(&server, "");
    let ended = send(directory.path(), &["--to", ADA]).await;
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    assert!(ended.stdout.lines().last().is_some_and(|line| line.starts_with("unknown ")), "{}", ended.stdout);
    let plainly = "nobody can know whether the server took it, and it was not repeated";
    assert!(ended.stderr.contains(plainly), "{}", ended.stderr);
    assert_eq!(server.ledger().totals().end_markers, 1);
}

#[tokio::test]
async fn the_guards_apply() {
    let server = SmtpServer::start();
    let allowing = directory(&server, "[guards]\nrecipients_allow = [\"@qa.example\"]\n");
    let stopped = send(allowing.path(), &["--to", ADA]).await;
    assert_eq!((stopped.code, stopped.stdout.as_str()), (1, ""));
    assert!(stopped.stderr.contains("guards.recipients_allow"), "{}", stopped.stderr);
    assert_eq!(server.ledger().connections().len(), 0);
    let redirecting = directory(&server, "[guards]\nredirect_all_to = \"staging@qa.example\"\n");
    let sent = send(redirecting.path(), &["--to", ADA]).await;
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let ledger = server.ledger();
    let message = ledger.messages().next().expect("it came");
    assert_eq!(message.recipients, ["staging@qa.example"]);
    assert_eq!(message.header("X-Hapax-Original-To").as_deref(), Some(ADA));
}

#[tokio::test]
async fn another_kind_that_is_broken_changes_nothing_and_a_misspelt_one_is_guessed() {
    let server = SmtpServer::start();
    let directory = directory(&server, "");
    let broken = directory.path().join("templates/broken");
    std::fs::create_dir_all(&broken).expect("made");
    std::fs::write(broken.join("subject.txt"), "{{ name").expect("written");
    let sent = send(directory.path(), &["--to", ADA]).await;
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    let bad = run_in(directory.path(), &["send-test", "broken", "--to", ADA, "--data", "payload.json"], &[]).await;
    assert!(bad.code == 1 && bad.stderr.contains("error: broken/subject.txt:1: syntax error"), "{}", bad.stderr);
    let unknown = run_in(directory.path(), &["send-test", "wellcome", "--to", ADA], &[]).await;
    assert!(unknown.code == 1 && unknown.stderr.contains("hint: did you mean welcome?"), "{}", unknown.stderr);
    assert_eq!(server.ledger().totals().accepted, 1);
}

#[tokio::test]
async fn what_was_typed_wrong_is_said_without_repeating_an_address() {
    let server = SmtpServer::start();
    let directory = directory(&server, "");
    let bad = send(directory.path(), &["--to", "canary at example"]).await;
    assert_eq!((bad.code, bad.stdout.as_str()), (64, ""));
    assert!(!bad.stderr.contains("canary"), "{}", bad.stderr);
    let route = send(directory.path(), &["--to", ADA, "--route", "none"]).await;
    assert_eq!(route.code, 64);
    assert!(route.stderr.contains("hint: the routes are: default"), "{}", route.stderr);
}
